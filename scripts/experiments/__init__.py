"""What an experiment is: cells and columns. Each file here that defines EXPERIMENT is one.

The name of the file is the name of the experiment, and the first line of its docstring is its description.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scripts.report import Column

RECORD = "--noise 0.05"
"""Flags of record.py for the scripted expert with drift, the demonstrator of the quick start."""

FAST = {
    "record": "--episodes 2 --height 48 --width 64",
    "train": "--d-model 32 --n-heads 2 --ffn-dim 64 --steps 4 --batch-size 4 --warmup-steps 1 --log-every 2 "
    "--val-every 2 --val-starts 8 --save-every 4",
    "rollout": "--episodes 2 --num-envs 2 --horizon 30",
}
"""Script → flags that --fast appends to every call of it: the same commands, too short to learn a task."""


@dataclass(frozen=True)
class Cell:
    """One row of the table: a policy and its rollouts. Cells with equal `data` and `train` share their policies."""

    labels: Mapping[str, str]
    """Heads and texts of the first columns. No two cells have the same texts."""
    data: Mapping[str, str]
    """Name of a recording → flags of record.py. Cells share recordings of the same name."""
    train: str = ""
    """Flags of train.py."""
    rollouts: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    """Name of the rollouts, by which columns find them → flags of rollout.py."""
    seeds: int | None = None
    """Trainings with seed 0, 1, … Default: those of the experiment."""
    held_out: Mapping[str, str] = field(default_factory=dict)
    """The same as `data`, of demonstrations that are not trained on; chunk_metrics.py then measures the policy."""


@dataclass(frozen=True)
class Experiment:
    """A grid: every cell is recorded, trained with every seed and rolled out."""

    cells: Sequence[Cell]
    columns: Sequence[Column]
    record: str = "--episodes 50"
    """Flags of record.py, for all cells; those of a cell come after them and override them."""
    train: str = "--preset cpu"
    """Flags of train.py."""
    rollout: str = "--episodes 100"
    """Flags of rollout.py. Seeds begin at 100,000."""
    seeds: int = 1
    """Trainings of each policy."""
