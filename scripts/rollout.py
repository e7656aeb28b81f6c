"""Roll a trained policy out on unseen seeds and report how often it succeeds.

    python scripts/rollout.py --checkpoint runs/cube --episodes 50 --videos 4 --json results.json
    python scripts/rollout.py --checkpoint runs/tiny --episodes 4 --num-envs 2           # seconds on a CPU

Per-seed results do not depend on --num-envs, up to rounding: a batch of another size sums floating point numbers in
another order.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from act.agent import PolicyAgent
from act.checkpoint import check_env_matches, find_checkpoint, load_policy, read_checkpoint
from act.chunking import ChunkExecutor, RecedingHorizon, TemporalEnsemble
from act.errors import ConfigError
from act.policies import Policy
from demos.record import spec_of
from envs import env_id
from envs.film import Film
from envs.results import evaluate, summarize
from envs.rollout import make_vector_env
from scripts.common import run
from scripts.tracking import Tracker


@dataclass(frozen=True)
class Args:
    """Roll a trained policy out on unseen seeds and report how often it succeeds."""

    checkpoint: Path
    """A run folder (its best checkpoint, or the last before there is a best) or one checkpoint file."""
    episodes: int = 50
    """One episode per seed."""
    seed: int = 100_000
    """First seed. Demonstrations come from seeds below 50,000, checkpoints are selected on seeds from there."""
    num_envs: int = 8
    """Environments that run side by side, a process each; the policy answers all of them at once."""
    task: str | None = None
    """Task to run in; default: the one that the policy was trained on."""
    execute: int | None = None
    """Actions of each chunk to execute before the policy looks again; default: half of the chunk."""
    ensemble: float | None = None
    """Temporal ensembling with this coefficient (the paper's is 0.01): the policy looks every --every steps."""
    every: int = 1
    """With --ensemble: steps between two looks."""
    horizon: int = 400
    """Steps of an episode."""
    videos: int = 0
    """How many of the episodes to film, failures not sorted out."""
    video_dir: Path | None = None
    """Where the films go; default: rollout/ beside the checkpoint."""
    json: Path | None = None
    """Write settings, summary and per-seed results to this file."""
    device: str = "auto"
    """auto, cpu or cuda."""
    wandb: Literal["offline", "online", "disabled"] = "disabled"
    """Log to the W&B run of the run folder."""
    wandb_project: str | None = None
    """Its project; without it, WANDB_PROJECT or W&B's own default."""


def executor_for(args: Args, policy: Policy) -> ChunkExecutor:
    if args.ensemble is not None:
        return TemporalEnsemble(policy.chunk_size, args.ensemble, args.every)
    return RecedingHorizon(policy.chunk_size, args.execute)


def main(args: Args) -> None:
    if args.episodes < 1 or args.num_envs < 1:
        raise ConfigError(f"--episodes {args.episodes} and --num-envs {args.num_envs} must both be at least 1")
    checkpoint = find_checkpoint(args.checkpoint)
    policy = load_policy(checkpoint, args.device)
    if not (args.task or policy.spec.env_id):
        raise ConfigError(f"{args.checkpoint} was not trained on a simulated task; name one with --task")
    task = env_id(args.task or policy.spec.env_id)
    agent = PolicyAgent(policy, executor_for(args, policy))
    # The newest few checkpoints of a run lie one folder further down.
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    seeds = range(args.seed, args.seed + args.episodes)

    cameras = {name: policy.spec.cameras[name] for name in policy.cameras}
    check_env_matches(policy, spec_of(gym.make(task, cameras=cameras)))
    venv = make_vector_env(
        task,
        min(args.num_envs, args.episodes),
        cameras=cameras,
        horizon=args.horizon,
        render_mode="rgb_array" if args.videos else None,
    )
    try:
        video_dir = args.video_dir or folder / "rollout"
        film = Film(venv, {seed: video_dir / f"seed_{seed}.mp4" for seed in seeds[: args.videos]})
        with tqdm(total=args.episodes, desc=f"rolling out {task}", unit="episode") as bar:
            results = evaluate(venv, agent, seeds, bar.update, film)
    finally:
        venv.close()

    summary = summarize(results) | {
        "inference_ms": {q: 1e3 * float(np.quantile(agent.latencies, p)) for q, p in (("p50", 0.5), ("p99", 0.99))}
        if agent.latencies
        else None,
        "inference_batch": venv.num_envs,
    }
    rows = [asdict(result) for result in results]
    print(table(task, seeds, summary))
    if film.paths:
        print(f"films: {video_dir}")
    if args.json is not None:
        settings = asdict(args) | {"checkpoint": checkpoint, "env_id": task}
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"settings": settings, "summary": summary, "episodes": rows}, indent=2))
        print(f"results: {args.json}")
    with Tracker(args.wandb, folder, {}, args.wandb_project) as tracker:
        step = read_checkpoint(checkpoint)["step"]
        tracker.log({"step": step, **{f"rollout/{name}": value for name, value in flat(summary).items()}})
        tracker.log_table(step, "rollout/episodes", rows)
        tracker.log_videos(step, {f"seed_{seed}": path for seed, path in film.paths.items()})


def table(task: str, seeds: range, summary: dict) -> str:
    """The summary for the screen."""

    def rate(key: str) -> str:
        low, high = summary[f"success_interval{key}"]
        return f"{100 * summary[f'success_rate{key}']:5.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f} %"

    stages = "  ".join(f"{stage}: {count}" for stage, count in summary["highest_stage"].items())
    step, inference = summary["median_success_step"], summary["inference_ms"]
    lines = [
        ("task", f"{task}, {summary['episodes']} episodes, seeds {seeds[0]} to {seeds[-1]}"),
        ("success, strict", rate("")),
        ("success, published", rate("_published")),
        ("highest stage", f"{stages}   (stage: episodes)"),
        ("time to success", f"{step / 50:.1f} s in the median" if step else "no success"),
        ("smoothness", f"jerk {summary['mean_jerk']:.1f} rad/s³"),
    ]
    if inference:
        times = f"{inference['p50']:.1f} ms median, {inference['p99']:.1f} ms p99"
        lines.append(("inference", f"{times}, {summary['inference_batch']} at once"))
    return "\n".join(f"{name:<19} {value}" for name, value in lines)


def flat(values: dict, prefix: str = "") -> dict[str, float]:
    """Nested numbers → one level, names joined by slashes."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (tuple, list)):
            found |= flat({"low": value[0], "high": value[1]}, f"{prefix}{name}/")
        elif value is not None:
            found[prefix + str(name)] = value
    return found


if __name__ == "__main__":
    run(main, Args)
