"""Recording: exactly N successful episodes into a folder, on any number of processes, resumable.

Seeds are tried in order and episodes are numbered in the order of their seeds, so the dataset depends on the settings
alone: not on the number of workers or machines, not on whether the recording was interrupted.

Numbers and seeds go on behind the highest ones in the folder. An episode that somebody deleted therefore stays away
(unless it was the last one, of which nothing tells any more), and no file is ever replaced.
"""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv

from demos.atomic_file import move_to_free_name
from demos.episode import Episode, NoEpisodesError, episode_number, find_episodes
from demos.experts import HORIZON, ScriptedExpert
from demos.operators import LONGEST, Operator
from demos.phrases import language_attributes
from demos.provenance import changes, provenance
from demos.robot import ALOHA
from demos.spec import EpisodeError, EpisodeSpec
from demos.writer import EpisodeWriter, versions
from envs.bimanual import BimanualEnv
from envs.rollout import make_vector_env, rollout
from envs.workers import LostWorker, WorkerPool

MAX_REJECTED_IN_A_ROW = 100
PENDING = ".pending"  # whole episodes that wait for their number; hidden from every reader
POLL = 0.02  # s between two looks for what other ranks have recorded
DONE = "done"  # among them: a sign to the other processes that there are enough


@dataclass(frozen=True)
class RecordConfig:
    """What is recorded; together with the software versions it determines every byte of the data.

    Args:
        env_id: Gymnasium id of the task.
        cameras: camera → (height, width).
        first_seed: seeds are tried from here on.
        noise: of the scripted expert, see `demos.experts`.
        operator: who demonstrates instead of the scripted expert, see `demos.operators`; "" is the expert.
        traits: more traits of the operator.
        instruction: phrasings of what the demonstrator is told; none: some of those that `demos.phrases` knows.
    """

    env_id: str
    cameras: dict[str, tuple[int, int]]
    first_seed: int = 0
    noise: float = 0.0
    operator: str = ""
    traits: tuple[str, ...] = ()
    instruction: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.operator and self.noise:
            raise EpisodeError(f"noise {self.noise:g} is the scripted expert's; an operator strays by its traits")
        if self.traits and not self.operator:
            raise EpisodeError(f"traits ({', '.join(self.traits)}) are an operator's; name one, plain for example")

    def demonstrator(self) -> tuple[ScriptedExpert | Operator, int]:
        """Who demonstrates, and after how many steps an episode ends at the latest."""
        if self.operator:
            return Operator(self.env_id, self.operator, self.traits), LONGEST
        return ScriptedExpert(self.env_id, self.noise), HORIZON


@dataclass(frozen=True)
class Recording:
    """What a recording came to: episodes in the folder, seeds on which the expert failed, and numbers below the
    highest one that no file has."""

    episodes: int
    rejected: int
    missing: tuple[int, ...] = ()


def spec_of(env: gym.Env | BimanualEnv) -> EpisodeSpec:
    """What an environment's episodes contain, with the cameras that it observes."""
    bimanual = env.unwrapped
    assert isinstance(bimanual, BimanualEnv)
    return EpisodeSpec(
        ALOHA,
        cameras=dict(bimanual.cameras),
        env_ids=(bimanual.spec.id,) if bimanual.spec else (),
        task=bimanual.task,
        env_state_dim=7 * len(bimanual.objects),
    )


def record(
    config: RecordConfig,
    folder: Path,
    episodes: int,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda recorded, rejected: None,
    rank: int = 0,
    size: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> Recording:
    """Fill `folder` up to exactly `episodes` successful episodes; those already there count.

    Several processes, on machines that share the folder, may call this together: each tries its share of the seeds,
    and rank 0 numbers the episodes.

    Args:
        workers: processes that simulate and write, of each rank.
        progress: called with the numbers recorded and rejected so far, in rank 0.
        rank, size: which of how many callers this one is.
        wait: returns when all of them have called it.

    Raises:
        EpisodeError: the folder holds episodes recorded with other settings, by other code, in another scene or with
            other versions of what matters (see `demos.provenance`), or the expert fails on and on.
        EnvError: unknown task or camera.
    """
    recorder = _Recorder(config, folder)
    before = _resume(config, recorder.spec, recorder.provenance, folder)
    recorded, rejected, number, seed = before.recorded, before.rejected, before.number, before.seed
    pending = folder / PENDING
    if rank == 0:
        shutil.rmtree(pending, ignore_errors=True)
        pending.mkdir()
    wait()
    workers = min(workers, max(1, episodes - recorded))
    if rank > 0:
        with _Pool(config, folder, recorder, workers) as run:
            _help(run, pending, range(seed + rank, sys.maxsize, size), size)
        wait()
        return Recording(recorded, rejected, before.missing)
    first, in_a_row = seed, 0
    progress(recorded, rejected)

    def kept() -> str:
        return f"{folder}: {recorded} episodes are kept, and the same command goes on from there"

    with _ends_told(kept), _Pool(config, folder, recorder, workers) as run:
        running: deque[Callable[[], Path | None]] = deque()
        while recorded < episodes:
            while len(running) < run.ahead * size:
                mine = (seed - first) % size == 0
                running.append(run.submit(seed) if mine else partial(_recorded_elsewhere, pending, seed))
                seed += 1
            path = running.popleft()()
            if path is None:
                rejected, in_a_row = rejected + 1, in_a_row + 1
                if in_a_row >= MAX_REJECTED_IN_A_ROW:
                    who, hint = "expert", f"Lower the noise ({config.noise:g} was given)"
                    if config.operator:
                        who, hint = "operator", "Give it fewer traits"
                    raise EpisodeError(
                        f"{folder}: the {who} failed on {in_a_row} seeds in a row; {recorded} episodes are kept. {hint}"
                    )
            else:
                path = move_to_free_name(path, folder / f"episode_{number}.hdf5")
                recorded, number, in_a_row = recorded + 1, episode_number(path) + 1, 0
            progress(recorded, rejected)
    (pending / DONE).touch()
    wait()
    shutil.rmtree(pending, ignore_errors=True)
    return Recording(recorded, rejected, before.missing)


@contextmanager
def _ends_told(kept: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C and a lost process say what is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(kept()) from None
    except LostWorker as error:
        raise LostWorker(f"{error}. {kept()}") from error


def _help(run: "_Pool", pending: Path, seeds: range, size: int) -> None:
    """Tries seeds for rank 0, a little ahead of it, until it has enough episodes."""
    running: deque[tuple[int, Callable[[], Path | None]]] = deque()
    rest = iter(seeds)
    while not (pending / DONE).exists():
        while len(running) < run.ahead and len(list(pending.glob("seed_*"))) < 4 * run.ahead * size:
            seed = next(rest)
            running.append((seed, run.submit(seed)))
        if not running:
            time.sleep(POLL)
            continue
        seed, done = running.popleft()
        if done() is None:
            (pending / f"seed_{seed}.failed").touch()


def _recorded_elsewhere(pending: Path, seed: int) -> Path | None:
    """Waits for the episode of a seed that another rank tries."""
    recorded, failed = pending / f"seed_{seed}.hdf5", pending / f"seed_{seed}.failed"
    while not failed.exists():
        if recorded.exists():
            return recorded
        time.sleep(POLL)
    failed.unlink()
    return None


@dataclass(frozen=True)
class _Progress:
    """Where a recording stands: the episodes in the folder and the numbers below theirs that are missing, the seeds
    rejected so far, and the next number and seed."""

    recorded: int
    rejected: int
    number: int
    seed: int
    missing: tuple[int, ...] = ()


def _resume(config: RecordConfig, spec: EpisodeSpec, now: dict[str, str], folder: Path) -> _Progress:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        paths = find_episodes(folder)
    except NoEpisodesError:
        return _Progress(0, 0, 0, config.first_seed)
    episodes, seeds = [Episode(path) for path in paths], []
    for episode in episodes:
        _check_same_settings(episode, config, spec)
        if episode.seed is None:
            raise EpisodeError(
                f"{episode.path}: does not tell its seed, so the next one is unknown; name another folder"
            )
        seeds.append(episode.seed)
    # Of the last one: the first may be from before episodes told it.
    if changed := changes(episodes[-1].attributes, now, versions()):
        raise EpisodeError(
            f"{folder}: what determines its episodes has changed (here: in the folder, there: now): "
            f"{'; '.join(changed)}. Go back to what recorded it, or name another folder"
        )
    numbers = [episode_number(path) for path in paths]
    number, seed = numbers[-1] + 1, max(seeds) + 1
    rejected = max(0, seed - config.first_seed - number)
    return _Progress(len(paths), rejected, number, seed, tuple(sorted({*range(number)} - {*numbers})))


def _check_same_settings(episode: Episode, config: RecordConfig, spec: EpisodeSpec) -> None:
    """EpisodeError where an episode in the folder was recorded with other settings."""
    differences = episode.spec.differences(spec)
    older = {"operator": "", "traits": ""}  # files of ours before there were any
    for name, given in {"expert": _expert(config), **_attributes(config)}.items():
        told = episode.attributes.get(name, older.get(name, "not told"))
        if told != given:
            differences.append(f"{name} is {_word(told)} here, {_word(given)} there")
    if differences:
        raise EpisodeError(
            f"{episode.path.parent} holds episodes with other settings (here: in the folder, there: asked for): "
            f"{'; '.join(differences)}. Give the same settings to resume, or another folder"
        )


def _word(value: object) -> object:
    return "none" if value == "" else value


def _expert(config: RecordConfig) -> str:
    return config.operator or "scripted"


def _attributes(config: RecordConfig) -> dict[str, int | float | str]:
    operator = {"operator": config.operator, "traits": " ".join(config.traits)}
    return {"noise": config.noise, "first_seed": config.first_seed, **operator}


class _Recorder:
    """One environment and one demonstrator that record episode after episode."""

    def __init__(self, config: RecordConfig, folder: Path):
        self.config, self.folder = config, folder
        self.expert, horizon = config.demonstrator()
        self.venv = make_vector_env(config.env_id, cameras=config.cameras, horizon=horizon)
        assert isinstance(self.venv, SyncVectorEnv)
        self.spec = spec_of(self.venv.envs[0])
        env = self.venv.envs[0].unwrapped
        assert isinstance(env, BimanualEnv)
        self.provenance = provenance(env, self.expert)

    def __call__(self, seed: int) -> Path | None:
        """Record the episode of a seed: its file among the pending ones, or None where the demonstrator failed."""
        path = self.folder / PENDING / f"seed_{seed}.hdf5"
        config, expert = self.config, self.expert
        name, settings = _expert(config), _attributes(config) | self.provenance
        with EpisodeWriter(path, self.spec, seed=seed, expert=name, attributes=settings) as writer:
            for step in rollout(self.venv, expert, [seed], always_render=True):
                observation = {name: value[0] for name, value in step.observation.items()}
                intended = expert.intended[0] if config.noise and expert.intended is not None else None
                writer.append(observation, step.action[0], float(step.reward[0]), intended)
                success = bool(step.info["is_success"][0]), bool(step.info["is_success_published"][0])
                if step.t + 1 == expert.length:
                    about = language_attributes(config.env_id, expert.variants[0], seed, config.instruction)
                    return writer.close(*success, about) if success[0] else None
        raise EpisodeError(f"seed {seed} of {name} takes {expert.length} steps, more than {LONGEST}")


class _Pool:
    """Runs a recorder here, or one in each of several processes."""

    def __init__(self, config: RecordConfig, folder: Path, recorder: _Recorder, workers: int):
        self._here = recorder
        self._processes = WorkerPool(workers, _start_worker, (config, folder), "--workers") if workers > 1 else None
        self.ahead = 1 if workers <= 1 else 2 * workers

    def submit(self, seed: int) -> Callable[[], Path | None]:
        """Records the episode of a seed; returns a function that waits for it."""
        if self._processes is not None:
            return partial(self._processes.result, self._processes.submit(_record_in_worker, seed))
        path = self._here(seed)
        return lambda: path

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._processes is not None:
            self._processes.__exit__(*error)
        self._here.venv.close()


_worker: _Recorder | None = None


def _start_worker(config: RecordConfig, folder: Path) -> None:
    global _worker
    _worker = _Recorder(config, folder)


def _record_in_worker(seed: int) -> Path | None:
    assert _worker is not None
    return _worker(seed)
