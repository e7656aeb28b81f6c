"""Records exactly N successful episodes into a folder, with any number of processes; resumable.

Seeds are tried in order, and episodes are numbered in the order of their seeds. The dataset therefore depends on the
settings only, not on the number of workers or machines, nor on interruptions.

Numbers and seeds continue after the highest ones in the folder: no file is replaced, and a deleted episode is not
recorded again unless it was the last one.
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
from demos.demonstrators import DEFAULT, Demonstrator, check
from demos.episode import episode_number
from demos.phrases import language_attributes
from demos.provenance import provenance
from demos.resume import resume
from demos.robot import ALOHA
from demos.spec import EpisodeError, EpisodeSpec
from demos.writer import EpisodeWriter
from envs.bimanual import BimanualEnv
from envs.rollout import make_vector_env, rollout
from envs.workers import LostWorker, WorkerPool

MAX_REJECTED_IN_A_ROW = 100
PENDING = ".pending"  # folder of complete episodes without a number yet; readers skip it
POLL = 0.02  # s between two polls for the episodes of other ranks
DONE = "done"  # file in that folder: the recording is complete


@dataclass(frozen=True)
class RecordConfig:
    """Settings of a recording; with the software versions they determine every byte of the data.

    Args:
        env_id: Gymnasium id of the task.
        cameras: camera → (height, width).
        first_seed: seeds are tried from here on.
        noise: standard deviation of the expert's perturbations, m.
        demonstrator: one of `demos.demonstrators.DEMONSTRATORS`.
        traits: more traits of the demonstrator.
        instruction: phrasings of the instruction; none: some of the phrases in `demos.tasks`.

    Raises:
        EpisodeError: unknown demonstrator or traits, or noise or traits that it does not take.
    """

    env_id: str
    cameras: dict[str, tuple[int, int]]
    first_seed: int = 0
    noise: float = 0.0
    demonstrator: str = DEFAULT
    traits: tuple[str, ...] = ()
    instruction: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.demonstrator, self.noise, self.traits)

    def make_demonstrator(self) -> Demonstrator:
        return Demonstrator(self.env_id, self.demonstrator, self.noise, self.traits)

    @property
    def stored_name(self) -> str:
        """The demonstrator as the attribute `expert` of a file names it."""
        return "scripted" if self.demonstrator == DEFAULT else self.demonstrator

    @property
    def attributes(self) -> dict[str, int | float | str]:
        """The other settings, as attributes of a file."""
        return {"noise": self.noise, "first_seed": self.first_seed, "traits": " ".join(self.traits)}


@dataclass(frozen=True)
class Recording:
    """The result of a recording: episodes in the folder, seeds on which the demonstrator failed, and missing numbers
    below the highest one."""

    episodes: int
    rejected: int
    missing: tuple[int, ...] = ()


def spec_of(env: gym.Env | BimanualEnv) -> EpisodeSpec:
    """The spec of an environment's episodes, with the cameras that it observes."""
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
    """Records until `folder` has exactly `episodes` successful episodes; existing ones count.

    Several processes, on machines that share the folder, may call this together: each tries its share of the seeds,
    and rank 0 numbers the episodes.

    Args:
        workers: processes of each rank.
        progress: called with the numbers recorded and rejected so far, in rank 0.
        rank, size: which of how many callers this one is.
        wait: a barrier of all callers.

    Raises:
        EpisodeError: the folder holds episodes recorded with other settings, by other code, in another scene or with
            other versions (see `demos.provenance`), or the demonstrator fails on many seeds in a row.
        EnvError: unknown task or camera.
    """
    recorder = _Recorder(config, folder)
    settings = {"expert": config.stored_name, **config.attributes}
    before = resume(folder, recorder.spec, settings, recorder.provenance, config.first_seed)
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
        return f"{folder}: {recorded} episodes are kept, and the same command continues from there"

    with _kept_reported(kept), _Pool(config, folder, recorder, workers) as run:
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
                    hint = f"Lower the noise ({config.noise:g} was given)" if config.noise else "Give fewer traits"
                    raise EpisodeError(
                        f"{folder}: the demonstrator {config.demonstrator} failed on {in_a_row} seeds in a row; "
                        f"{recorded} episodes are kept. {hint}"
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
def _kept_reported(kept: Callable[[], str]) -> Iterator[None]:
    """Adds to Ctrl-C and to a lost process how many episodes are kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(kept()) from None
    except LostWorker as error:
        raise LostWorker(f"{error}. {kept()}") from error


def _help(run: "_Pool", pending: Path, seeds: range, size: int) -> None:
    """Tries seeds for rank 0, a little ahead of it, until the recording is complete."""
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
    """Waits for the episode of a seed from another rank; None if it failed."""
    recorded, failed = pending / f"seed_{seed}.hdf5", pending / f"seed_{seed}.failed"
    while not failed.exists():
        if recorded.exists():
            return recorded
        time.sleep(POLL)
    failed.unlink()
    return None


class _Recorder:
    """One environment and one demonstrator; records one episode per call."""

    def __init__(self, config: RecordConfig, folder: Path):
        self.config, self.folder = config, folder
        self.demonstrator = config.make_demonstrator()
        self.venv = make_vector_env(config.env_id, cameras=config.cameras, horizon=self.demonstrator.horizon)
        assert isinstance(self.venv, SyncVectorEnv)
        self.spec = spec_of(self.venv.envs[0])
        env = self.venv.envs[0].unwrapped
        assert isinstance(env, BimanualEnv)
        self.provenance = provenance(env, self.demonstrator)

    def __call__(self, seed: int) -> Path | None:
        """Records the episode of a seed: its file among the pending ones, or None where the demonstrator failed."""
        path = self.folder / PENDING / f"seed_{seed}.hdf5"
        config, agent, name = self.config, self.demonstrator, self.config.stored_name
        settings = config.attributes | self.provenance
        with EpisodeWriter(path, self.spec, seed=seed, expert=name, attributes=settings) as writer:
            for step in rollout(self.venv, agent, [seed], always_render=True):
                observation = {name: value[0] for name, value in step.observation.items()}
                intended = agent.intended[0] if config.noise and agent.intended is not None else None
                writer.append(observation, step.action[0], float(step.reward[0]), intended)
                success = bool(step.info["is_success"][0]), bool(step.info["is_success_published"][0])
                if step.t + 1 == agent.length:
                    about = language_attributes(config.env_id, agent.variants[0], seed, config.instruction)
                    return writer.close(*success, about) if success[0] else None
        raise EpisodeError(f"seed {seed} of {name} takes {agent.length} steps, more than {agent.horizon}")


class _Pool:
    """Runs a recorder in this process, or one in each of several worker processes."""

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
