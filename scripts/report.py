"""Columns, one table and one plot: how scripts/experiment.py and scripts/compare.py report success rates."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from act.run_folder import RunFolder
from envs.results import wilson_interval
from scripts.common import markdown
from scripts.outputs import write_file


@dataclass(frozen=True)
class Run:
    """One training of a cell, and what was measured of it."""

    seed: int
    policy: Path
    """Run folder of train.py."""
    results: Mapping[str, Mapping[str, Any]]
    """Name of the rollouts → what rollout.py wrote with --json."""
    chunks: Mapping[str, Any]
    """What chunk_metrics.py wrote; empty where it was not run."""
    seconds: Mapping[str, float]
    """Script → seconds it took. Without scripts that were interrupted and resumed, whose time is unknown."""
    commands: Sequence[str]


@dataclass(frozen=True)
class Row:
    """A cell with all of its trainings."""

    labels: Mapping[str, str]
    runs: Sequence[Run]

    def episodes(self, rollouts: str = "") -> list[Mapping[str, Any]]:
        """Those of all trainings."""
        return [
            episode for run in self.runs if rollouts in run.results for episode in run.results[rollouts]["episodes"]
        ]


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    head: str
    value: Callable[[Row], Any]
    """Of a row, as JSON knows it; None where there is none."""
    text: Callable[[Any], str]
    """Of a value."""
    in_plot: bool = False
    """Whether its values, from `rate`, are drawn in the plot."""


def rate(flags: Sequence[bool]) -> dict[str, Any]:
    """Share of true ones with its 95 % Wilson interval."""
    return {"rate": mean(flags), "interval": wilson_interval(sum(flags), len(flags)), "episodes": len(flags)}


def _rate_column(head: str, rollouts: str, of: Callable[[Mapping[str, Any]], bool], in_plot: bool = False) -> Column:
    """The share of episodes of all trainings."""

    def value(row: Row) -> dict[str, Any] | None:
        flags = [of(episode) for episode in row.episodes(rollouts)]
        return rate(flags) if flags else None

    def text(value: Mapping[str, Any]) -> str:
        low, high = value["interval"]
        return f"{100 * value['rate']:.1f} % ({100 * low:.0f} to {100 * high:.0f})"

    return Column(head, value, text, in_plot)


def strict(rollouts: str = "", head: str = "strict success (95 % interval)") -> Column:
    """Strict success."""
    return _rate_column(head, rollouts, lambda episode: episode["success"], in_plot=not rollouts)


def published(rollouts: str = "", head: str = "published success (95 % interval)") -> Column:
    """Success as the paper counts it."""
    return _rate_column(head, rollouts, lambda episode: episode["success_published"])


def followed(rollouts: str = "", head: str = "instruction followed") -> Column:
    """Strict success in the variant that was requested; of tasks with one variant, strict success."""
    return _rate_column(head, rollouts, lambda each: each["success"] and each["variant"] == each["requested"])


def each_training(rollouts: str = "") -> Column:
    """Strict success of every training by itself."""

    def value(row: Row) -> list[float]:
        return [run.results[rollouts]["summary"]["success_rate"] for run in row.runs if rollouts in run.results]

    return Column("each training", value, lambda rates: ", ".join(f"{100 * rate:.0f}" for rate in rates))


def variants(rollouts: str = "") -> Column:
    """Shares of all episodes that succeeded in each variant of the task."""

    def value(row: Row) -> dict[str, float] | None:
        episodes = row.episodes(rollouts)
        counts = Counter(each["variant"] for each in episodes if each["success"] and each["variant"])
        return {name: counts[name] / len(episodes) for name in sorted(counts)} or None

    def text(shares: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())

    return Column("successes by variant", value, text)


def several_variants(rollouts: str) -> Column:
    """Of the initial states that were rolled out with several noise samples: in how many two variants succeeded."""

    def value(row: Row) -> list[int] | None:
        seen: dict[tuple[int, int], set[str]] = {}
        for run in row.runs:
            for each in run.results.get(rollouts, {"episodes": ()})["episodes"]:
                seen.setdefault((run.seed, each["seed"]), set()).update({each["variant"]} if each["success"] else ())
        return [sum(len(found - {""}) > 1 for found in seen.values()), len(seen)] if seen else None

    return Column("both variants from one state", value, lambda counts: f"{counts[0]} of {counts[1]}")


def averaged(head: str, of: Callable[[Run], float | None], digits: int = 1) -> Column:
    """Mean over the trainings that have the number."""

    def value(row: Row) -> float | None:
        values = [number for run in row.runs if (number := of(run)) is not None]
        return mean(values) if values else None

    return Column(head, value, lambda number: f"{number:.{digits}f}")


def minutes(script: str) -> Column:
    """Duration of a script."""
    return averaged(f"minutes of {script}", lambda run: run.seconds[script] / 60 if script in run.seconds else None)


def horizon() -> Column:
    """Steps of an episode in rollouts."""
    return averaged("steps of a rollout", lambda run: run.results[""]["settings"]["horizon"], 0)


def jerk(rollouts: str = "", head: str = "jerk (rad/s³)") -> Column:
    """Smoothness of the commanded joints."""
    return averaged(head, lambda run: run.results[rollouts]["summary"]["mean_jerk"], 0)


def inference(rollouts: str = "") -> Column:
    """Median latency of one query of the policy."""

    def of(run: Run) -> float | None:
        times = run.results[rollouts]["summary"]["inference_ms"]
        return times and times["p50"]

    return averaged("inference (ms)", of)


def logged(name: str, head: str, digits: int = 3) -> Column:
    """The last value of a metric in metrics.jsonl."""

    def of(run: Run) -> float | None:
        return next((record[name] for record in reversed(RunFolder(run.policy).history()) if name in record), None)

    return averaged(head, of, digits)


def throughput() -> Column:
    """Median training speed."""

    def of(run: Run) -> float | None:
        speeds = [record.get("train/samples_per_s") for record in RunFolder(run.policy).history()]
        return median(found) if (found := [speed for speed in speeds if speed is not None]) else None

    return averaged("training (samples/s)", of, 0)


def chunks(name: str, head: str, digits: int = 2) -> Column:
    """A number of chunk_metrics.py."""
    return averaged(head, lambda run: run.chunks.get(name), digits)


def table(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Markdown: a line for each row. Columns without any value are left out."""
    values = {column: [column.value(row) for row in rows] for column in columns}
    shown = [column for column in columns if any(value is not None for value in values[column])]
    lines = [[*rows[0].labels, *(column.head for column in shown)]]
    for i, row in enumerate(rows):
        cells = [(column, values[column][i]) for column in shown]
        lines.append([*row.labels.values(), *("–" if value is None else column.text(value) for column, value in cells)])
    return markdown(lines)


def plot_rates(
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path, dots: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Draws success rates with 95 % intervals, the first row on top.

    Args:
        rows: name → text of the legend → what `rate` returns.
        dots: name → rates of single trainings, drawn as small dots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.1 + 0.45 * len(rows)), layout="constrained")
    limits = {"xlim": (-2, 102), "ylim": (len(rows) - 0.5, -0.5)}
    axes = figure.add_subplot(xlabel="success rate (%), with 95 % intervals", **limits)
    for number, label in enumerate(dict.fromkeys(label for rates in rows.values() for label in rates)):
        found = {i + 0.24 * number - 0.12: rates[label] for i, rates in enumerate(rows.values()) if label in rates}
        shares = [100 * each["rate"] for each in found.values()]
        low, high = zip(*(each["interval"] for each in found.values()), strict=True)
        errors = [[share - 100 * end for share, end in zip(shares, low, strict=True)]]
        errors += [[100 * end - share for share, end in zip(shares, high, strict=True)]]
        fill = "none" if number else "full"
        axes.errorbar(
            shares, list(found), xerr=errors, fmt="o", fillstyle=fill, color="tab:blue", capsize=3, label=label
        )
    for i, name in enumerate(rows):
        single = (dots or {}).get(name, ())
        axes.plot([100 * share for share in single], [i + 0.3] * len(single), ".", color="tab:orange")
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    write_file(path, lambda partial: figure.savefig(partial, dpi=120, format="png"))
