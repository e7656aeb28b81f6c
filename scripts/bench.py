"""Measure the speed of this machine: simulation, training steps, inference, data loading; beside LeRobot and gym-aloha.

    python scripts/bench.py --only file env --rounds 2                                # a minute on a CPU
    python scripts/bench.py --peer-python /path/to/venv/bin/python --json bench.json
    python scripts/bench.py --only train infer render --batch-sizes 8 64 256 --compile --json gpu.json     # one GPU

--peer-python is the interpreter of a virtual environment (Python 3.12) with `lerobot[dataset]` and `gym-aloha`. Both
sides do the same work in turn, in one run. Success rates are measured by scripts/experiment.py.
"""

import scripts.early  # noqa: F401

# isort: split
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act.errors import ConfigError
from scripts.benchmarks import SIZES
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.timing import Case, measure, table
from scripts.common import run
from scripts.outputs import check_file, keep

PARTS = ("train", "infer", "data", "env", "render", "evaluation", "record", "file", "experts", "scaling", "roofline")
MOVED = {"families": "policies", "told": "language", "policy": "end_to_end", "table": "paper"}
"""Part that measured success rates → experiment that does it now."""


@dataclass(frozen=True)
class Args:
    """Measure the speed of this machine, beside other programs."""

    only: tuple[str, ...] = ()
    """Parts to measure: train, infer, data, env, render, evaluation, record, file, experts, scaling, roofline. Default:
    all."""
    peer_python: Path | None = None
    """Interpreter of a virtual environment that has LeRobot and gym-aloha."""
    rounds: int = 3
    """Measurements of each kind, both sides in turn. Medians are reported."""
    device: str = "auto"
    """For train, infer, data and evaluation: auto, cpu or cuda."""
    batch_sizes: tuple[int, ...] = (8,)
    """For train; roofline takes the first."""
    compile: bool = False
    """Also measure compiled training steps and inference."""
    seeds: int = 500
    """For experts: episodes of each task, with seeds 0 and up."""
    demonstrator: str = "expert"
    """For experts: `record.py --demonstrator`."""
    noise: float = 0.0
    """For experts: `record.py --noise`, m."""
    episodes: int = 50
    """For record and evaluation."""
    workers: int = os.cpu_count() or 1
    """Processes for record, render, experts and evaluation."""
    json: Path | None = None
    """Write all numbers to this file."""


def main(args: Args) -> None:
    check_file("--json", args.json)
    parts = tuple(part for words in args.only for part in words.split(",")) or PARTS
    for part in parts:
        if part in MOVED:
            raise ConfigError(f"--only {part} was removed; use scripts/experiment.py {MOVED[part]}")
        if part not in PARTS:
            raise ConfigError(f"unknown part {part!r}; known parts: {', '.join(PARTS)}")
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(args.peer_python)) if args.peer_python else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for part in parts:
            if part in PARTS_WITHOUT_ROUNDS:
                rows += PARTS_WITHOUT_ROUNDS[part](args)
                continue
            rows += (found := measure(cases_of(part, args, peer, folder / part), args.rounds))
            print(table(found), flush=True)
    if args.json is not None:
        text = json.dumps(rows, indent=2)
        if problem := keep(args.json, lambda path: path.write_text(text)):
            raise ConfigError(problem)


def cases_of(part: str, args: Args, peer: Peer | None, folder: Path) -> list[Case]:
    """What a part measures. It may write into `folder`."""
    # With torch and timm these take seconds, which nobody waits for to read --help.
    from act.device import pick_device
    from scripts.benchmarks import learning, scaling, simulation

    device = pick_device(args.device)
    cases: dict[str, Callable[[], list[Case]]] = {
        "train": lambda: learning.train_cases(peer, device, args.batch_sizes, args.compile),
        "infer": lambda: learning.infer_cases(peer, device, args.compile),
        "data": lambda: learning.data_cases(peer, simulation.record_sizes(folder, 4, args.workers), device),
        "env": lambda: simulation.env_cases(peer),
        "render": lambda: simulation.render_cases(args.workers),
        "evaluation": lambda: simulation.evaluation_cases(peer, args.episodes, args.workers, str(device)),
        "record": lambda: simulation.record_cases(args.episodes, args.workers),
        "file": lambda: simulation.file_cases(simulation.record_sizes(folder, 1)),
        "scaling": lambda: scaling.scaling_cases(device, folder, args.workers),
    }
    return cases[part]()


def count_successes(args: Args) -> Iterator[dict[str, Any]]:
    from scripts.benchmarks.simulation import demonstrator_successes

    for name, row in demonstrator_successes(args.demonstrator, args.noise, args.seeds, args.workers):
        low, high = (100 * end for end in row["interval"])
        print(f"{name}: {row['strict']} of {row['episodes']} strict (95 % interval {low:.1f} to {high:.1f} %)")
        yield {"name": name, **row}


def calculate_roofline(args: Args) -> Iterator[dict[str, Any]]:
    from scripts.benchmarks.roofline import GPUS, cost

    for height, width in SIZES:
        each = cost(size=(height, width), batch=args.batch_sizes[0])
        bounds = {name: each.samples_per_s(*peaks) for name, peaks in GPUS.items()}
        name = f"calculated, training step of the paper's shape, bfloat16, batch {each.batch}, {height} x {width}"
        speeds = ", ".join(f"{gpu} {bound:.0f}" for gpu, bound in bounds.items())
        print(f"{name}: {each.flops / 1e12:.2f} TFLOP, {each.bytes / 1e9:.1f} GB; at most {speeds} samples/s")
        yield {"name": name, "flops": each.flops, "bytes": each.bytes, "samples_per_s": bounds}


PARTS_WITHOUT_ROUNDS = {"experts": count_successes, "roofline": calculate_roofline}
"""Part that is counted or calculated once → its function."""

if __name__ == "__main__":
    run(main, Args)
