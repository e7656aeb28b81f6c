"""Every way of generating a chunk, compared: the same demonstrations, eyes, samples and rollouts; one table.

A cell is one family trained once on one set of demonstrations. It leaves its policy, its rollouts and its figures in
the folder; what is there is not made again. Started by torchrun, each process makes its share of the cells.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from act.checkpoint import load_policy
from act.run_folder import find_checkpoint, write_atomically
from scripts.benchmarks import family_page
from scripts.benchmarks.family_figures import figures
from scripts.common import call as run_script

SCRIPTS = Path(__file__).parents[1]
POLL = 2.0  # s
HELD_OUT = 40_000  # first seed of demonstrations that nothing learns from


@dataclass(frozen=True)
class Family:
    """How a family is trained, and how it decides in rollouts."""

    name: str
    train: str
    rollout: str = "--sample episode"


FAMILIES = (
    Family("regression", "--policy regression", ""),
    Family("autoencoder", "--policy autoencoder"),
    Family("act", "--policy act --use-vae --prior learned --kl-weight 0.05 --free-nats 1"),
    Family("gan", "--policy gan"),
    Family("autoregressive", "--policy autoregressive"),
    Family("flow", "--policy flow"),
    Family("flow-matching", "--policy flow-matching"),
    Family("diffusion", "--policy diffusion"),
)


@dataclass(frozen=True)
class Demonstrations:
    """What is learnt from: flags of record.py, and of train.py."""

    name: str
    record: str
    train: str
    seeds: int
    """Trainings of each family."""


DATA = (
    # Where an arm goes is what the families are to decide, so no keyframe is told beforehand.
    Demonstrations("hand_over", "--task hand_over --noise 0.05", "--no-keyframe-token --place-weight 0", 3),
    # One way: the recipe as it is.
    Demonstrations("transfer_cube", "--task transfer_cube --operator plain", "", 1),
)


@dataclass(frozen=True)
class Amounts:
    """How much of everything a cell does."""

    demonstrations: int = 50
    held_out: int = 16
    rollouts: int = 100
    scenes: int = 4
    """Initial states that are begun several times, with other draws."""
    draws: int = 8
    record: str = ""
    train: str = "--preset cpu"
    execute: int = 25
    speed_steps: int = 30
    seeds: int | None = None
    """At most so many trainings of each."""


FULL = Amounts()
FAST = Amounts(seeds=1, rollouts=50, train="--preset cpu --steps 3000")
TINY = Amounts(
    demonstrations=4,
    held_out=2,
    rollouts=2,
    scenes=1,
    draws=2,
    record="--height 48 --width 64",
    train="--preset cpu --steps 10 --d-model 32 --n-heads 2 --ffn-dim 64 --chunk-size 10",
    execute=5,
    speed_steps=2,
    seeds=1,
)
"""Proves that the real amounts would run."""


@dataclass(frozen=True)
class Cell:
    """One training of a family."""

    family: Family
    data: Demonstrations
    seed: int

    @property
    def name(self) -> str:
        return f"{self.data.name}_{self.family.name}_{self.seed}"


def compare_families(
    folder: Path,
    amounts: Amounts,
    rank: int = 0,
    size: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> str:
    """Makes what is not there yet of the comparison, and the table, which is returned, of what is.

    Args:
        rank, size, wait: which of how many processes this is, and what waits for all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for data in DATA if rank == 0 else ():
        record = f"{data.record} {amounts.record}"
        call("record.py", f"{record} --episodes {amounts.demonstrations}", out=folder / "data" / data.name)
        held_out = folder / "held_out" / data.name
        call("record.py", f"{record} --episodes {amounts.held_out} --seed {HELD_OUT}", out=held_out)
    wait()
    cells = [
        Cell(family, data, seed)
        for seed in range(max(data.seeds for data in DATA))
        for data in DATA
        for family in FAMILIES
        if seed < min(data.seeds, amounts.seeds or data.seeds)
    ]
    for cell in cells[rank::size]:
        make(cell, folder, amounts)
    if rank > 0:
        return ""
    await_files([folder / "figures" / f"{cell.name}.json" for cell in cells])
    for family in FAMILIES:
        policy = folder / "policies" / Cell(family, DATA[0], 0).name
        speed(policy, folder / "speed" / f"{family.name}.json", amounts.speed_steps)
    return family_page.write(folder, [family.name for family in FAMILIES], [data.name for data in DATA])


def await_files(paths: Sequence[Path]) -> None:
    """Returns once all are there. The other ranks may need hours more than this one, which no collective waits for."""
    while not all(path.exists() for path in paths):
        time.sleep(POLL)


def make(cell: Cell, folder: Path, amounts: Amounts) -> None:
    """The policy of a cell, its rollouts in both executions and from the same beginnings, and its figures."""
    policy, told = folder / "policies" / cell.name, folder / "figures" / f"{cell.name}.json"
    data, held_out = folder / "data" / cell.data.name, folder / "held_out" / cell.data.name
    if told.exists():
        return
    flags = f"{amounts.train} {cell.family.train} {cell.data.train} --seed {cell.seed} --wandb disabled"
    call("train.py", f"{flags} --resume", data=data, out=policy)
    rollouts = {  # temporal ensembling with ten looks a chunk, the default; half of each chunk, then a look
        "ensemble": f"--episodes {amounts.rollouts}",
        "halves": f"--episodes {amounts.rollouts} --n-action-steps {amounts.execute}",
    }
    if cell.family.rollout:
        rollouts["scenes"] = f"--episodes {amounts.scenes} --samples-per-seed {amounts.draws}"
    for name, flags in rollouts.items():
        out = folder / "rollouts" / f"{cell.name}_{name}.json"
        if not out.exists():
            partial = out.with_suffix(".partial")
            call("rollout.py", f"{cell.family.rollout} {flags}", checkpoint=policy, json=partial)
            partial.rename(out)
    found, drawn = figures(load_policy(find_checkpoint(policy), "cpu"), data, held_out)
    told.parent.mkdir(exist_ok=True)
    np.save(told.with_suffix(".npy"), drawn)
    found = {"cell": {"family": cell.family.name, "data": cell.data.name, "seed": cell.seed}} | found
    write_atomically(told, json.dumps(found | {"training": stability(policy)}, indent=2).encode())


def stability(policy: Path) -> dict[str, Any]:
    """What the training's log says: whether it diverged, how far gradients jumped, and what each loss ended at."""
    lines = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    norms = [line["train/grad_norm"] for line in lines if "train/grad_norm" in line]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    settled = norms[len(norms) // 10 :]
    last: dict[str, float] = {}
    for line in lines:
        last |= {name: value for name, value in line.items() if name.startswith(("train/", "val/", "diagnostics/"))}
    return {
        "diverged": not np.isfinite(losses).all(),
        "gradient_spike": float(np.max(settled) / np.median(settled)),
        "last": last,
    }


def speed(policy: Path, out: Path, steps: int) -> None:
    """Parameters, time and memory of a policy: measured in a process of its own, when no other work is done."""
    if out.exists() or not policy.exists():
        return
    out.parent.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "scripts.benchmarks.family_speed", policy.absolute(), out.absolute(), steps]
    subprocess.run([str(word) for word in words], check=True, cwd=SCRIPTS.parent, env=alone())


def call(script: str, flags: str, *more: object, **paths: Path) -> None:
    """Run a script as a person would; one that fails ends this one with its exit code.

    Args:
        flags: without spaces in any of them.
        more: further words.
        paths: flag → path.
    """
    words = [*flags.split(), *map(str, more)]
    words += [str(word) for name, path in paths.items() for word in (f"--{name}", path)]
    print(f"\n$ python scripts/{script} {' '.join(words)}", flush=True)
    run_script([sys.executable, str(SCRIPTS / script), *words], env=alone())


def alone() -> dict[str, str]:
    """The environment without what torchrun says in it: a script that is started here is no rank."""
    said = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in said and "TORCHELASTIC" not in name}
