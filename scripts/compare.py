"""Compare the rollouts of several policies: a table, and a plot with intervals.

    python scripts/compare.py base.json no_vae.json chunk_1.json --png ablations.png

The others are compared with the first file. Rollouts with the same seeds have the same initial states, so the seeds on
which only one of two policies succeeded say more than the difference of their rates.
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
from scripts.outputs import check_file, failures_named
from scripts.report import plot_rates, rate


@dataclass(frozen=True)
class Args:
    """Compare the rollouts of several policies: a table, and a plot with intervals."""

    results: Positional[tuple[Path, ...]]
    """Files that rollout.py --json wrote. The table shows their file names."""
    png: Path | None = None
    """Draw the success rates with their intervals into this file."""


def main(args: Args) -> None:
    check_file("--png", args.png)
    if not args.results:
        raise ConfigError("no files were given; name files that rollout.py --json wrote")
    runs = {path.stem: read_results(path) for path in args.results}
    if len(runs) < len(args.results):
        raise ConfigError("two of the files have the same name; rename one")
    print(table(runs))
    if args.png is not None:
        rates = {
            label: {name: rate([each[key] for each in run["episodes"]]) for name, run in runs.items()}
            for label, key in (("strict", "success"), ("published", "success_published"))
        }
        with failures_named(args.png):
            plot_rates({name: {label: rates[label][name] for label in rates} for name in runs}, args.png)
        print(f"plot: {args.png}")


def table(runs: dict[str, dict[str, Any]]) -> str:
    """A line for each file. Won: seeds on which it succeeded strictly and the first file did not; lost: the reverse."""
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


if __name__ == "__main__":
    run(main, Args)
