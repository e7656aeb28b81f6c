"""Speed of environments, rendering, recording, the episode file and evaluation; success of demonstrators."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from act.agent_settings import AgentSettings
from act.policies import make_policy
from act.presets import PRESETS
from demos.episode import Episode, find_episodes
from demos.record import RecordConfig, record, spec_of
from envs import TASKS
from envs.aloha import HOME_ACTION
from envs.results import evaluate, wilson_interval
from envs.rollout import make_vector_env, render_cameras
from scripts.acting import agent_for, envs_for
from scripts.benchmarks import SIZES
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.timing import Case


def env_cases(peer: Peer | None) -> list[Case]:
    """Control steps per second of one process, beside gym-aloha with its rendered observation."""
    peers = {"gym-aloha": peer.doing("env", steps=15)} if peer else {}
    cases = [Case(f"{task}: physics alone", "steps/s", _stepper(name, (), 1500)) for task, name in TASKS.items()]
    for height, width in SIZES:
        for task, name in TASKS.items():
            take = _stepper(name, {"top": (height, width)}, 150)
            cases.append(Case(f"{task}: with top camera, {height} x {width}", "steps/s", take, peers))
    return cases


def _stepper(env_id: str, cameras: Any, steps: int) -> Callable[[], float]:
    env = gym.make(env_id, cameras=cameras, disable_env_checker=True)
    env.reset(seed=0)
    env.step(HOME_ACTION)

    def take() -> float:
        env.reset(seed=0)
        start = time.perf_counter()
        for t in range(steps):
            if t % 400 == 399:
                env.reset()
            env.step(HOME_ACTION)
        return steps / (time.perf_counter() - start)

    return take


def render_cases(workers: int, frames: int = 400, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Case]:
    """Control steps per second, every one rendered, of one process and of `workers` processes together."""
    counts = sorted({1, workers})
    return [
        Case(f"rendering, {height} x {width}, {n} at once", "steps/s", partial(_rendered, n, (height, width), frames))
        for height, width in sizes
        for n in counts
    ]


def _rendered(processes: int, size: tuple[int, int], frames: int) -> float:
    with closing(make_vector_env(TASKS["transfer_cube"], processes, parallel=True, cameras={"top": size})) as venv:
        actions = np.tile(HOME_ACTION, (processes, 1))
        venv.reset(seed=0)
        render_cameras(venv)
        start = time.perf_counter()
        for _ in range(frames):
            venv.step(actions)
            render_cameras(venv)
        return processes * frames / (time.perf_counter() - start)


def evaluation_cases(peer: Peer | None, episodes: int, num_envs: int, device: str) -> list[Case]:
    """Whole episodes with a policy of the cpu preset, its pictures of 120 x 160 and half of each chunk executed.

    Weights are random: the work is that of a trained policy. The start of the environments' processes is not counted,
    as gym-aloha's is not, of which a few steps stand for all: they take equally long.
    """
    task = TASKS["transfer_cube"]
    cameras = {"top": SIZES[0]}
    policy = make_policy(PRESETS["cpu"][0], spec_of(gym.make(task, cameras=cameras))).to(device)
    settings = AgentSettings(n_action_steps=policy.chunk_size // 2)
    agent, venv = agent_for(settings, policy, task), envs_for(settings, policy, task, num_envs)
    evaluate(venv, agent, range(num_envs))  # processes, rendering contexts and the policy are ready then

    def take() -> float:
        start = time.perf_counter()
        results = evaluate(venv, agent, range(episodes))
        return sum(result.length for result in results) / (time.perf_counter() - start)

    peers = {"gym-aloha, one env": peer.doing("env", steps=15)} if peer else {}
    return [Case(f"evaluation of {episodes} episodes, {num_envs} at once", "steps/s", take, peers)]


def record_cases(episodes: int, workers: int) -> list[Case]:
    """Wall time of a recording, start of the workers included."""

    def take() -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            record(RecordConfig(TASKS["transfer_cube"], {"top": SIZES[0]}), Path(folder), episodes, workers)
            return time.perf_counter() - start

    return [Case(f"recording {episodes} episodes, top camera, 120 x 160, {workers} at once", "s", take)]


def record_sizes(folder: Path, episodes: int, workers: int = 1) -> list[Path]:
    """Recordings of every size of picture, each in a folder of its own."""
    folders = [folder / f"{height}x{width}" for height, width in SIZES]
    for out, size in zip(folders, SIZES, strict=True):
        record(RecordConfig(TASKS["transfer_cube"], {"top": size}), out, episodes, workers)
    return folders


def file_cases(folders: Sequence[Path]) -> list[Case]:
    """Size of the first episode in each folder, and time to read a random frame, the file opened each time or once."""
    cases = []
    for folder in folders:
        path = find_episodes(folder)[0]
        episode = Episode(path)
        height, width = episode.spec.cameras["top"]
        name = f"episode of {episode.length} steps, top camera, {height} x {width}"
        cases += [
            Case(f"{name}: size", "MB", partial(lambda path: path.stat().st_size / 1e6, path)),
            Case(f"{name}: random frame", "ms", partial(_frame_ms, episode, False)),
            Case(f"{name}: random frame, file kept open", "ms", partial(_frame_ms, episode, True)),
        ]
    return cases


def _frame_ms(episode: Episode, keep_open: bool) -> float:
    times = []
    with episode if keep_open else nullcontext():
        for t in np.random.default_rng(0).integers(0, episode.length, 300):
            start = time.perf_counter()
            episode.frame("top", int(t))
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def demonstrator_successes(
    demonstrator: str, noise: float, seeds: int, workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Success of a demonstrator in one task after the other."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for task, env_id in TASKS.items():
            shares = np.array_split(np.arange(seeds), workers)
            config = RecordConfig(env_id, {}, noise=noise, demonstrator=demonstrator)
            counts = np.sum(list(pool.map(partial(_demonstrate, config), shares)), axis=0)
            strict, published = (int(count) for count in counts)
            row = {"episodes": seeds, "strict": strict, "published": published}
            yield f"{task}: {demonstrator}, noise {noise:g}", row | {"interval": wilson_interval(strict, seeds)}


def _demonstrate(config: RecordConfig, seeds: Sequence[int]) -> tuple[int, int]:
    agent = config.make_demonstrator()
    venv = make_vector_env(config.env_id, horizon=agent.horizon)
    results = evaluate(venv, agent, seeds)
    venv.close()
    return sum(result.success for result in results), sum(result.success_published for result in results)
