"""Measure both sides of the same work in turn: medians, spread, one table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from scripts.common import columns


@dataclass
class Case:
    """One kind of work, done by this program and perhaps by peers.

    Attributes:
        name: what is done.
        unit: of what the measures return; "…/s" is better when it is higher, anything else when it is lower.
        ours: does the work once and returns the figure.
        peers: name → the same work done by it.
    """

    name: str
    unit: str
    ours: Callable[[], float]
    peers: dict[str, Callable[[], float]] = field(default_factory=dict)


def measure(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Every case `rounds` times, ours and its peers' in turn, so that a machine that slows down slows both sides.

    Returns:
        A row per case: name, unit, "ours", "peers" (name → figures), each with all values, median and spread;
        "ratios" (name → how many times as good ours is).
    """
    values: list[dict[str, list[float]]] = [{} for _ in cases]
    total = rounds * sum(1 + len(case.peers) for case in cases)
    with tqdm(total=total, desc="measuring", disable=None, leave=False) as bar:
        for _ in range(rounds):
            for case, taken in zip(cases, values, strict=True):
                for name, take in {"ours": case.ours, **case.peers}.items():
                    bar.set_postfix_str(f"{case.name}, {name}")
                    taken.setdefault(name, []).append(take())
                    bar.update()
    return [_row(case, taken) for case, taken in zip(cases, values, strict=True)]


def _row(case: Case, taken: Mapping[str, list[float]]) -> dict[str, Any]:
    figures = {
        name: {"median": statistics.median(values), "spread": max(values) - min(values), "values": values}
        for name, values in taken.items()
    }
    ours = figures.pop("ours")
    higher_is_better = case.unit.endswith("/s")
    ratios = {
        name: (ours["median"] / peer["median"]) ** (1 if higher_is_better else -1) for name, peer in figures.items()
    }
    return {"name": case.name, "unit": case.unit, "ours": ours, "peers": figures, "ratios": ratios}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per case and peer: median ± half the spread on both sides, and how many times as good ours is."""

    def figure(value: dict[str, Any]) -> str:
        return f"{value['median']:.4g} ± {value['spread'] / 2:.2g}"

    lines = [("", "unit", "ours", "peer", "peer's", "times as good")]
    for row in rows:
        first = (row["name"], row["unit"], figure(row["ours"]))
        for peer, value in row["peers"].items():
            lines.append((*first, peer, figure(value), f"{row['ratios'][peer]:.2f}"))
        if not row["peers"]:
            lines.append((*first, "", "", ""))
    return columns(lines)
