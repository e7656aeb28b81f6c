"""How good one recipe is on several kinds of demonstrations: record each, train on each, roll out, one table.

    python scripts/study.py --out runs/study                             # all kinds: a day on two cores
    python scripts/study.py --out runs/study --tasks transfer_cube --kinds plain mixed --training-seeds 3
    python scripts/study.py --out runs/tiny --kinds plain --demonstrations 2 --rollouts 2 --train="--steps 20"

It runs record.py, train.py and rollout.py and shows their command lines. Interrupted, it goes on where it was; called
again with more kinds or seeds, it adds them to the table.
"""

import scripts.early  # noqa: F401

# isort: split
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act.errors import ConfigError
from demos.episode import Episode, find_episodes
from demos.pictures import tool_paths
from envs import env_id
from envs.results import read_results, wilson_interval
from scripts.common import markdown, run, step
from scripts.outputs import check_folder, failures_named, keep, only_writer

KINDS: dict[str, list[str]] = {
    "expert": ["--noise", "0.05"],
    **{name: ["--operator", name] for name in ("plain", "careful", "hasty", "mixed")},
    **{
        trait: ["--traits", trait]
        for trait in ("pauses", "tempo", "wander", "overshoot", "misses", "approaches", "order", "idle_ends")
    },
}
"""Kind of demonstrations → flags of record.py: the quick start's expert, operators, and plain ones with one trait."""

SHOWN = 8  # episodes of each kind in the picture


@dataclass(frozen=True)
class Args:
    """How good one recipe is on several kinds of demonstrations."""

    out: Path
    """Folder of everything: demonstrations and a picture of them, policies, results, table.md and table.png."""
    tasks: tuple[str, ...] = ("transfer_cube", "insertion")
    """Tasks."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds of demonstrations."""
    training_seeds: int = 1
    """Trainings of each kind, with --seed 0, 1 and so on."""
    label: str = "recipe"
    """Name of the recipe in the table."""
    train: str = ""
    """More flags of train.py, as in --train="--steps 8000": another recipe, to be given another --label."""
    rollout: str = ""
    """More flags of rollout.py."""
    demonstrations: int = 50
    """Of each kind."""
    rollouts: int = 100
    """Of each policy, on seeds from 100,000."""


def main(args: Args) -> None:
    if unknown := [kind for kind in args.kinds if kind not in KINDS]:
        raise ConfigError(f"unknown kind {unknown[0]!r}; known kinds: {', '.join(KINDS)}")
    for task in args.tasks:
        env_id(task)
    check_folder("--out", args.out)
    with only_writer(args.out, "study"):
        study_all(args)


def study_all(args: Args) -> None:
    """Does what is still to be done, and tells what came of everything."""
    for task in args.tasks:
        for kind in args.kinds:
            for seed in range(args.training_seeds):
                study(args, task, kind, seed)
    for task in args.tasks:
        folders = {kind: args.out / "demonstrations" / f"{task}_{kind}" for kind in args.kinds}
        shown = {kind: [Episode(path) for path in find_episodes(folders[kind])[:SHOWN]] for kind in folders}
        tool_paths(shown, args.out / f"demonstrations_{task}.png")
    rows = gather(args.out)
    text = table(rows)
    print(f"\n{text}\n")
    with failures_named(args.out):
        (args.out / "table.md").write_text(text + "\n")
        plot(rows, args.out / "table.png")
    print(f"table: {args.out / 'table.md'}, picture: {args.out / 'table.png'}")


def study(args: Args, task: str, kind: str, seed: int) -> None:
    """Everything that one row of the table needs and that is not there yet."""
    data = args.out / "demonstrations" / f"{task}_{kind}"
    name = f"{task}_{kind}_{args.label}_{seed}"
    policy, results = args.out / "policies" / name, args.out / "results" / f"{name}.json"
    if results.exists():
        return
    step("record.py", "--task", task, "--episodes", args.demonstrations, "--out", data, *KINDS[kind])
    train = shlex.split(args.train)
    seconds = step(
        "train.py", "--data", data, "--out", policy, "--resume", "--seed", seed, "--wandb", "disabled", *train
    )
    partial = results.with_suffix(".partial")
    rollout = ["--checkpoint", policy, "--episodes", args.rollouts, "--json", partial]
    step("rollout.py", *rollout, *shlex.split(args.rollout))
    found = read_results(partial)
    found["study"] = {"task": task, "kind": kind, "recipe": args.label, "seed": seed, "training_minutes": seconds / 60}
    text = json.dumps(found, indent=2)
    if problem := keep(results, lambda path: path.write_text(text)):
        raise ConfigError(problem)
    partial.unlink()


def gather(out: Path) -> list[dict[str, Any]]:
    """Rows of the table, in the order of `KINDS`: one for each task, kind and recipe, over its training seeds."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for path in sorted((out / "results").glob("*.json")):
        found = read_results(path)
        about = found["study"]
        key = about["task"], list(KINDS).index(about["kind"]), about["recipe"]
        groups.setdefault(key, []).append(found)
    rows = []
    for (task, kind, recipe), runs in sorted(groups.items(), key=lambda item: (-len(item[0][0]), *item[0][1:])):
        episodes = [episode for found in runs for episode in found["episodes"]]
        strict = sum(episode["success"] for episode in episodes)
        rows.append(
            {
                "task": task,
                "kind": list(KINDS)[kind],
                "recipe": recipe,
                "strict": strict / len(episodes),
                "interval": wilson_interval(strict, len(episodes)),
                "published": sum(episode["success_published"] for episode in episodes) / len(episodes),
                "each": [found["summary"]["success_rate"] for found in runs],
                "horizon": runs[0]["settings"]["horizon"],
                "minutes": sum(found["study"]["training_minutes"] for found in runs) / len(runs),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown that also reads well on a screen."""
    heads = ["demonstrations", "task", "recipe", "strict", "95 % interval", "each training", "published"]
    lines = [[*heads, "steps of a rollout", "minutes of training"]]
    for row in rows:
        low, high = row["interval"]
        rates = f"{100 * row['strict']:.1f} %", f"{100 * low:.0f} to {100 * high:.0f}"
        each = ", ".join(f"{100 * rate:.0f}" for rate in row["each"])
        last = f"{100 * row['published']:.1f} %", str(row["horizon"]), f"{row['minutes']:.1f}"
        lines.append([row["kind"], row["task"], row["recipe"], *rates, each, *last])
    return markdown(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A dot for each row with its interval, and a small one for each training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.1 + 0.33 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel="strict success (%), with 95 % intervals", xlim=(-2, 102))
    for height, row in enumerate(rows):
        rate, (low, high) = row["strict"], row["interval"]
        error = [[100 * (rate - low)], [100 * (high - rate)]]
        axes.errorbar(100 * rate, height, xerr=error, fmt="o", color="tab:blue", capsize=3)
        axes.plot([100 * each for each in row["each"]], [height + 0.25] * len(row["each"]), ".", color="tab:orange")
    several = len({row["recipe"] for row in rows}) > 1
    names = [f"{row['task']}, {row['kind']}" + (f", {row['recipe']}" if several else "") for row in rows]
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run(main, Args)
