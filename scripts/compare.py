"""Compare what rollout.py wrote about several policies: a table and a picture with intervals.

    python scripts/compare.py base.json no_vae.json chunk_1.json --png ablations.png

The first file is the one that the others are compared with. Policies rolled out on the same seeds met the same
episodes, so the seeds on which only one of the two succeeded tell more than the difference of two rates.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from act.errors import ConfigError
from envs.results import read_results
from scripts.common import columns, run
from scripts.outputs import check_file, failures_named, write_file


@dataclass(frozen=True)
class Args:
    """Compare what rollout.py wrote about several policies: a table and a picture with intervals."""

    results: Positional[tuple[Path, ...]]
    """Files that rollout.py --json wrote; named in the table by their file names."""
    png: Path | None = None
    """Draw the success rates with their intervals here."""


def main(args: Args) -> None:
    check_file("--png", args.png)
    if not args.results:
        raise ConfigError("no results were given; name files that rollout.py --json wrote")
    runs = {path.stem: read_results(path) for path in args.results}
    if len(runs) < len(args.results):
        raise ConfigError("two of the results have the same file name, by which they are named here; rename one")
    print(table(runs))
    if args.png is not None:
        plot(runs, args.png)
        print(f"picture: {args.png}")


def table(runs: dict[str, dict[str, Any]]) -> str:
    """A line for each; won and lost are seeds on which it alone, or the first one alone, succeeded strictly."""
    head = "episodes", "strict %", "interval %", "published %", "won", "lost", "jerk rad/s³", "inference ms"
    lines: list[tuple[str, ...]] = [("", *head)]
    outcomes = [{episode["seed"]: episode["success"] for episode in run["episodes"]} for run in runs.values()]
    for i, (name, outcome) in enumerate(zip(runs, outcomes, strict=True)):
        figures = runs[name]["summary"]
        low, high = figures["success_interval"]
        shared = outcome.keys() & outcomes[0].keys() if i else ()
        won = sum(outcome[seed] and not outcomes[0][seed] for seed in shared)
        lost = sum(outcomes[0][seed] and not outcome[seed] for seed in shared)
        inference = figures["inference_ms"]
        lines.append(
            (
                name,
                str(figures["episodes"]),
                f"{100 * figures['success_rate']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{100 * figures['success_rate_published']:.1f}",
                *((str(won), str(lost)) if shared else ("-", "-")),
                f"{figures['mean_jerk']:.1f}",
                f"{inference['p50']:.1f}" if inference else "-",
            )
        )
    return columns(lines)


def plot(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Success rates as dots, strict filled and published hollow, with 95 % intervals; the first one on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.1 + 0.45 * len(runs)), layout="constrained")
    rows = range(len(runs))
    limits = {"xlim": (-2, 102), "ylim": (len(runs) - 0.5, -0.5)}
    axes = figure.add_subplot(xlabel="success rate (%), with 95 % intervals", **limits)
    for key, shift, style, label in (("", -0.12, "full", "strict"), ("_published", 0.12, "none", "published")):
        rates = [100 * run["summary"][f"success_rate{key}"] for run in runs.values()]
        ends = [run["summary"][f"success_interval{key}"] for run in runs.values()]
        errors = [[rate - 100 * low for rate, (low, _) in zip(rates, ends, strict=True)]]
        errors += [[100 * high - rate for rate, (_, high) in zip(rates, ends, strict=True)]]
        heights = [row + shift for row in rows]
        axes.errorbar(rates, heights, xerr=errors, fmt="o", fillstyle=style, color="tab:blue", capsize=3, label=label)
    axes.set_yticks(rows, [name.replace("_", " ") for name in runs])
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    with failures_named(path):
        write_file(path, lambda partial: figure.savefig(partial, dpi=120, format="png"))


if __name__ == "__main__":
    run(main, Args)
