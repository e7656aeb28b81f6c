"""From nothing to a policy: record demonstrations, train on them, roll the policy out on unseen seeds.

    python scripts/quickstart.py            # minutes on two CPU cores
    python scripts/quickstart.py --fast     # the same line, too short to learn the task

It runs record.py, train.py, rollout.py and inspect_data.py and prints their command lines. First it estimates how long
this machine will take. If it is interrupted, the same command continues.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.results import read_results
from envs.workers import WorkerPool
from scripts.common import run, step
from scripts.outputs import check_folder, only_writer
from scripts.record import usual_workers
from scripts.rollout import Args as RolloutArgs
from scripts.wandb_run import Mode, mode_from


@dataclass(frozen=True)
class Args:
    """Record demonstrations, train on them, roll the policy out on unseen seeds."""

    task: str = "transfer_cube"
    """transfer_cube, insertion, hand_over, give_cube, lift_tray, stack or tip."""
    out: Path | None = None
    """Output folder. Default: runs/quickstart_<task>, with --fast runs/quickstart_<task>_fast."""
    fast: bool = False
    """A few demonstrations and steps: shows that everything works, too short to learn the task."""
    device: str = "auto"
    """auto, cpu or cuda."""
    wandb: Mode | None = None
    """Weights & Biases. Default: WANDB_MODE, else disabled."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    demonstrations: int
    steps: int | None  # None: as many as the preset says
    rollouts: int
    videos: int


NOISE = 0.05  # m; see demos/experts.py
FULL = Size(demonstrations=50, steps=None, rollouts=100, videos=4)
FAST = Size(demonstrations=4, steps=50, rollouts=4, videos=1)


def main(args: Args) -> None:
    size = FAST if args.fast else FULL
    out = args.out or Path("runs") / f"quickstart_{args.task}{'_fast' if args.fast else ''}"
    mode = mode_from(args.wandb, "disabled")
    check_folder("--out", out)
    with only_writer(out, "quick start"):
        run_all(args, size, out, mode)


def run_all(args: Args, size: Size, out: Path, mode: Mode) -> None:
    """Records, trains, rolls out, draws pictures, and prints a summary."""
    data, policy, results = out / "demonstrations", out / "policy", out / "results.json"
    train = ["--data", data, "--out", policy, "--preset", "cpu", "--device", args.device, "--wandb", mode]
    announced = None if data.exists() else announce(args, size)
    train += [] if size.steps is None else ["--steps", size.steps, "--warmup-steps", size.steps // 10]
    seconds = {
        "recording": step(
            "record.py", "--task", args.task, "--episodes", size.demonstrations, "--noise", NOISE, "--out", data
        ),
        "training": step("train.py", *train, "--resume"),
        "rollouts": step(
            "rollout.py", "--checkpoint", policy, "--episodes", size.rollouts, "--videos", size.videos,
            "--video-dir", out / "videos", "--json", results, "--device", args.device, "--wandb", mode,
        ),
        "pictures": step("inspect_data.py", data, "--out", out / "pictures"),
    }  # fmt: skip
    print(summary(out, results, seconds, announced))


def announce(args: Args, size: Size) -> float:
    """Prints how long everything will take on this machine, and returns the seconds."""
    print("measuring for a few seconds how fast this machine is …", flush=True)
    # A process of its own: torch and its memory on a GPU are gone afterwards.
    sizes = (size.demonstrations, size.steps, size.rollouts, RolloutArgs.num_envs, usual_workers(size.demonstrations))
    with WorkerPool(1) as pool:
        seconds = pool.result(pool.submit(_estimate, args.task, args.device, *sizes))
    parts = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    print(f"this will take about {sum(seconds.values()) / 60:.1f} minutes: {parts}", flush=True)
    return sum(seconds.values())


def _estimate(*sizes: Any) -> dict[str, float]:
    from scripts.estimate import estimate  # imports torch

    return estimate(*sizes)


def summary(out: Path, results: Path, seconds: dict[str, float], announced: float | None) -> str:
    figures = read_results(results)["summary"]
    low, high = figures["success_interval"]
    times = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items())
    said = "" if announced is None else f" ({announced / 60:.1f} were announced)"
    lines = [
        "",
        f"success rate      {100 * figures['success_rate']:.0f} % strict (95 % interval {100 * low:.0f} to "
        f"{100 * high:.0f} %), {100 * figures['success_rate_published']:.0f} % published, "
        f"{figures['episodes']} unseen seeds",
        f"minutes           {sum(seconds.values()) / 60:.1f}: {times}{said}",
        f"demonstrations    {out / 'demonstrations'}, their pictures: {out / 'pictures'}",
        f"policy            {out / 'policy' / 'best.pt'}, its curves: {out / 'policy' / 'curves.png'}",
        f"films             {out / 'videos'}",
        f"results per seed  {results}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, Args)
