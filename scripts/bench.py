"""Measure what this machine does: environment speed beside gym-aloha's, experts, recording, the episode file.

    python scripts/bench.py --only env file                                       # a minute on a CPU
    python scripts/bench.py --peer-python /path/to/venv/bin/python --json bench.json

The peer is the interpreter of a virtual environment with gym-aloha in it; both sides are measured alternately.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from demos.episode import Episode, find_episodes
from demos.experts import ScriptedExpert
from demos.record import RecordConfig, record
from envs import TASKS
from envs.aloha import HOME_ACTION
from envs.results import evaluate, wilson_interval
from envs.rollout import make_vector_env
from scripts.common import run

SIZES = ((120, 160), (480, 640))

PEER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import gymnasium as gym, gym_aloha
steps = int(sys.argv[1])
env = gym.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
env.reset(seed=0)
action = env.action_space.sample() * 0
env.step(action)
start = time.perf_counter()
for _ in range(steps):
    env.step(action)
print(steps / (time.perf_counter() - start))
"""


@dataclass(frozen=True)
class Args:
    """Measure what this machine does."""

    only: tuple[Literal["env", "experts", "record", "file"], ...] = ("env", "experts", "record", "file")
    """Which parts to measure."""
    peer_python: Path | None = None
    """Interpreter of a virtual environment that has gym-aloha."""
    rounds: int = 5
    """Alternating measurements of each kind; medians are reported."""
    seeds: int = 500
    """Episodes per expert, seeds 0 and up."""
    noise: float = 0.0
    """Size of the experts' detours, m."""
    episodes: int = 50
    """Episodes to record."""
    workers: int = os.cpu_count() or 1
    """Processes for recording and for the experts."""
    json: Path | None = None
    """Write all figures to this file."""


def main(args: Args) -> None:
    parts: dict[str, Callable[[Args], dict[str, Any]]] = {
        "env": bench_env,
        "experts": bench_experts,
        "record": bench_record,
        "file": bench_file,
    }
    figures: dict[str, Any] = {}
    for name in args.only:
        figures[name] = parts[name](args)
        for what, value in figures[name].items():
            print(f"{what:<44} {value if isinstance(value, str) else f'{value:.4g}'}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2))


def bench_env(args: Args) -> dict[str, float]:
    """Control steps per second of one process."""
    measure: dict[str, Callable[[], float]] = {
        f"{task}: steps/s, physics alone": _stepper(env_id, (), 1500) for task, env_id in TASKS.items()
    }
    for height, width in SIZES:
        cameras = {"top": (height, width)}
        for task, env_id in TASKS.items():
            measure[f"{task}: steps/s, top {height} x {width}"] = _stepper(env_id, cameras, 150)
    if args.peer_python is not None:
        command = [str(args.peer_python), "-c", PEER, "15"]
        environment = {**os.environ, "MUJOCO_GL": "egl"}

        def peer() -> float:
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            return float(run.stdout.split()[-1])

        measure["gym-aloha: steps/s, pixels_agent_pos"] = peer
    rounds = [{what: take() for what, take in measure.items()} for _ in range(args.rounds)]
    figures = {what: statistics.median(round[what] for round in rounds) for what in measure}
    if args.peer_python is not None:
        base = figures["gym-aloha: steps/s, pixels_agent_pos"]
        figures |= {f"{what} / gym-aloha's": value / base for what, value in figures.items() if "top" in what}
    return figures


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


def bench_experts(args: Args) -> dict[str, str]:
    """Success of the scripted experts."""
    figures = {}
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        for task, env_id in TASKS.items():
            shares = np.array_split(np.arange(args.seeds), args.workers)
            runs = pool.map(_expert, [env_id] * len(shares), [args.noise] * len(shares), shares)
            strict, published = np.sum(list(runs), axis=0)
            low, high = wilson_interval(int(strict), args.seeds)
            figures[f"{task}: expert, noise {args.noise:g}"] = (
                f"{strict} of {args.seeds} strict (95 % interval {100 * low:.1f} to {100 * high:.1f} %), "
                f"{published} published"
            )
    return figures


def _expert(env_id: str, noise: float, seeds: Sequence[int]) -> tuple[int, int]:
    venv = make_vector_env(env_id)
    results = evaluate(venv, ScriptedExpert(env_id, noise), seeds)
    venv.close()
    return sum(result.success for result in results), sum(result.success_published for result in results)


def bench_record(args: Args) -> dict[str, float]:
    """Wall time of a recording, start of the workers included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        record(RecordConfig(TASKS["transfer_cube"], {"top": SIZES[0]}), Path(folder), args.episodes, args.workers)
        seconds = time.perf_counter() - start
    return {f"transfer_cube: seconds to record {args.episodes}, top 120 x 160": seconds}


def bench_file(args: Args) -> dict[str, float]:
    """Size of an episode and time to read a random frame, the file opened each time and kept open."""
    figures: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            record(RecordConfig(TASKS["transfer_cube"], {"top": (height, width)}), Path(folder), 1)
            [path] = find_episodes(folder)
            name = f"episode, top {height} x {width}"
            figures[f"{name}: MB"] = path.stat().st_size / 1e6
            episode = Episode(path)
            steps = rng.integers(0, episode.length, 300)
            figures[f"{name}: ms, random frame"] = _median_ms(episode, steps)
            with episode:
                figures[f"{name}: ms, random frame, file open"] = _median_ms(episode, steps)
    return figures


def _median_ms(episode: Episode, steps: Iterable[int]) -> float:
    times = []
    for t in steps:
        start = time.perf_counter()
        episode.frame("top", int(t))
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    run(main, Args)
