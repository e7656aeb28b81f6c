"""Record demonstrations of another robot, or roll a policy out on it.

export PYTHONPATH=. MUJOCO_GL=egl        # in a virtual environment that also has the robot's package
python scripts/experiments/other_robots/run.py record --env fetch --out data/fetch
python scripts/train.py --data data/fetch --preset cpu --out runs/fetch
python scripts/experiments/other_robots/run.py rollout --env fetch --checkpoint runs/fetch --json fetch.json
"""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv

sys.path.insert(0, str(Path(__file__).parent))

from demos.writer import EpisodeWriter
from envs.results import wilson_interval
from envs.rollout import Step, rollout


@dataclass(frozen=True)
class Args:
    """Record demonstrations of another robot, roll a policy out on it, or let the script itself act."""

    do: Annotated[Literal["record", "rollout", "script"], tyro.conf.Positional]
    env: Literal["fetch", "two_arm_lift"]
    out: Path | None = None
    """Folder of the recorded episodes."""
    checkpoint: Path | None = None
    """Of the policy to roll out."""
    episodes: int = 0
    """Default: 50 to record, 100 to roll out or to let the script act."""
    seed: int | None = None
    """The first one. Default: 0 to record, 100,000 otherwise."""
    noise: float = 0.5
    """Of the script's commands while it records."""
    n_action_steps: int | None = None
    """As of scripts/rollout.py."""
    temporal_ensemble_coeff: float | None = None
    """As of scripts/rollout.py."""
    replan_every: int = 1
    """As of scripts/rollout.py."""
    num_envs: int = 4
    json: Path | None = None
    films: int = 0
    """Of so many episodes the frames that the policy sees, side by side, as PNG beside --json."""


class ScriptAgent:
    """The script as an agent in N environments; `intended` are the actions without noise, (N, A)."""

    cameras: tuple[str, ...] = ()

    def __init__(self, venv: SyncVectorEnv, expert: Any, noise: float):
        self._envs, self._expert, self._noise = [env.unwrapped for env in venv.envs], expert, noise

    def reset(self, seeds: Sequence[int], observation: Any) -> None:
        self._experts = [self._expert(env, seed, self._noise) for env, seed in zip(self._envs, seeds, strict=True)]

    def needs_images(self) -> bool:
        return False

    def __call__(self, observation: Any) -> np.ndarray:
        action, self.intended = map(np.stack, zip(*(expert() for expert in self._experts), strict=True))
        return action


def record(args: Args, world: Any) -> None:
    venv = SyncVectorEnv([world.make], autoreset_mode=AutoresetMode.DISABLED)
    agent, seed, kept = ScriptAgent(venv, world.Expert, args.noise), args.seed or 0, 0
    assert args.out is not None
    args.out.mkdir(parents=True, exist_ok=True)
    while kept < (args.episodes or 50):
        attributes = {"noise": args.noise}
        path = args.out / f"episode_{kept}.hdf5"
        with EpisodeWriter(path, world.SPEC, seed=seed, expert="script", attributes=attributes) as writer:
            for step in rollout(
                venv, agent, [seed], always_render=True, stop_when=lambda info: bool(info["is_success"].all())
            ):
                observation = {name: value[0] for name, value in step.observation.items()}
                writer.append(observation, step.action[0], float(step.reward[0]), agent.intended[0])
                if step.last and step.info["is_success"][0]:
                    writer.close(success=True, success_published=True)
                    kept += 1
                    print(f"seed {seed}: {step.t + 1} steps", flush=True)
        seed += 1


def ends(steps: Iterator[Step], film: Path | None, films: int) -> Iterator[tuple[int, bool, int]]:
    """Of every episode: its seed, whether it succeeded at any step, and its length."""
    done: dict[int, int] = {}
    frames: dict[int, list] = {}
    for step in steps:
        for i, seed in enumerate(step.seeds):
            if step.info["is_success"][i]:
                done.setdefault(seed, step.t + 1)
            pictures = [value[i] for name, value in step.observation.items() if name.startswith("images/")]
            if film and pictures and seed not in done and (seed in frames or len(frames) < films):
                frames.setdefault(seed, []).append(np.vstack(pictures))
        if step.last:
            yield from ((seed, seed in done, done.get(seed, step.t + 1)) for seed in step.seeds)
            for seed, shots in list(frames.items())[: films if film else 0]:
                from PIL import Image

                rows = [np.hstack(shots[start : start + 8]) for start in range(0, len(shots) - len(shots) % 8, 8)]
                Image.fromarray(np.vstack(rows or [np.hstack(shots)])).save(f"{film}_{seed}.png")
            frames.clear()


def roll_out(args: Args, world: Any) -> None:
    venv = SyncVectorEnv([world.make] * args.num_envs, autoreset_mode=AutoresetMode.DISABLED)
    agent: Any = ScriptAgent(venv, world.Expert, 0.0)
    if args.do == "rollout":
        from act.agent import agent_from
        from act.agent_settings import AgentSettings
        from act.checkpoint import load_policy
        from act.run_folder import find_checkpoint

        assert args.checkpoint is not None
        policy = load_policy(find_checkpoint(args.checkpoint), "cpu")
        settings = AgentSettings(n_action_steps=args.n_action_steps)
        if args.temporal_ensemble_coeff is not None:
            settings = AgentSettings(
                temporal_ensemble_coeff=args.temporal_ensemble_coeff, replan_every=args.replan_every
            )
        agent = agent_from(policy, settings)
    first = 100_000 if args.seed is None else args.seed
    seeds = range(first, first + (args.episodes or 100))
    steps = rollout(venv, agent, seeds, stop_when=lambda info: bool(info["is_success"].all()))
    rows = []
    film = args.json.with_suffix("") if args.json and args.films else None
    for seed, success, length in ends(steps, film, args.films):
        rows.append({"seed": seed, "success": success, "length": length})
        print(f"seed {seed}: {'success' if success else 'FAILURE'} after {length} steps", flush=True)
    n = sum(row["success"] for row in rows)
    low, high = wilson_interval(n, len(rows))
    print(f"success {n} of {len(rows)}, 95 % interval {100 * low:.1f} … {100 * high:.1f} %")
    if args.json:
        args.json.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(args).items()}, "episodes": rows}))


if __name__ == "__main__":
    args = tyro.cli(Args)
    world = importlib.import_module(args.env)
    (record if args.do == "record" else roll_out)(args, world)
