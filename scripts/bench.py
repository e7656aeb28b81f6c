"""Measure what this machine does: training, inference, data, environments, recording, beside the peers'.

    python scripts/bench.py --only file env --rounds 2                                # a minute on a CPU
    python scripts/bench.py --peer-python /path/to/venv/bin/python --json bench.json
    python scripts/bench.py --gpu-report report                                       # nine minutes on one GPU
    python scripts/bench.py --only families --out runs/families                       # nine hours on a CPU; resumes
    python scripts/bench.py --only told --operator plain --out runs/told_plain        # hours on a CPU; resumes

The peer is the interpreter of a virtual environment (Python 3.12) with `lerobot[dataset]` and `gym-aloha` in it. Both
sides do the same work in turn, in one run.
"""

import scripts.early  # noqa: F401

# isort: split
import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from act.errors import ConfigError
from demos.record import RecordConfig, record
from envs import TASKS
from scripts.benchmarks import SIZES
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.timing import Case, measure, table
from scripts.common import ranks, run
from scripts.outputs import check_file, check_folder, keep, only_writer

PARTS = ("train", "infer", "data", "env", "evaluation", "record", "file", "experts", "scaling", "roofline")


@dataclass(frozen=True)
class Args:
    """Measure what this machine does, beside the peers'."""

    only: tuple[str, ...] = ()
    """Parts to measure: train, infer, data, env, evaluation, record, file, experts, scaling, roofline (all by
    default); by themselves families: all ways of generating a chunk compared, and told: one policy of all tasks that is
    told in words which to do; of the GPU report: train, infer, render, policy, table."""
    peer_python: Path | None = None
    """Interpreter of a virtual environment that has LeRobot and gym-aloha."""
    rounds: int = 3
    """Alternating measurements of each kind; medians are reported."""
    device: str = "auto"
    """Of training and inference: auto, cpu or cuda."""
    batch_size: int = 8
    """Of a training step."""
    seeds: int = 500
    """Episodes per expert, seeds 0 and up."""
    operator: Literal["plain", "careful", "hasty", "mixed"] | None = None
    """Of experts and told: instead of the experts this operator (`record.py --operator`) in every task."""
    noise: float = 0.0
    """Of experts: size of their detours, m."""
    episodes: int = 50
    """Episodes to record and to evaluate."""
    workers: int = os.cpu_count() or 1
    """Processes for recording, for the experts and for evaluation."""
    gpu_report: Path | None = None
    """Write the report of one accelerator into this folder instead: JSON, pictures, a trained policy."""
    tiny: bool = False
    """Tiny sizes for the GPU report, data, file, families and told: proof that the real ones will run."""
    fast: bool = False
    """Of families and told: one training of each, of a third of the steps, and half as many rollouts."""
    out: Path | None = None
    """Of families and told: folder of demonstrations, policies, figures, tables and pictures; default: runs/families
    and runs/told. It goes on where it was; under torchrun each process makes its share."""
    json: Path | None = None
    """Write all figures to this file."""


def main(args: Args) -> None:
    check_file("--json", args.json)
    check_folder("--gpu-report", args.gpu_report)
    check_folder("--out", args.out)
    # With torch and timm these take seconds, which nobody waits for to read --help.
    from act.device import pick_device
    from scripts.benchmarks import families, gpu_report, roofline, simulation, told
    from scripts.benchmarks.sizes import FULL, TINY

    if args.only in (("families",), ("told",)):
        if args.noise:
            raise ConfigError(f"--noise is of experts, not of {args.only[0]}; leave it out")
        if args.operator and args.only == ("families",):
            raise ConfigError("--operator is of experts and told, not of families; leave it out")
        part, compare = {
            "families": (families, families.compare_families),
            "told": (told, told.compare_told),
        }[args.only[0]]
        amounts: Any = part.TINY if args.tiny else part.FAST if args.fast else part.FULL
        if part is told and args.operator:
            amounts = replace(amounts, demonstrator=f"--operator {args.operator}")
        out = args.out or Path("runs") / args.only[0]
        with ranks() as (rank, size, wait), only_writer(out, "comparison"):
            text = compare(out, amounts, rank, size, wait)
        if rank == 0:
            print(f"\n{text}\n\ntables and pictures: {out}")
        return
    known = gpu_report.PARTS if args.gpu_report else PARTS
    only = tuple(part for words in args.only for part in words.split(",")) or known
    if unknown := [part for part in only if part not in known]:
        raise ConfigError(f"unknown part {unknown[0]!r}; known parts: {', '.join(known)}")
    demonstrator = RecordConfig("", {}, noise=args.noise, demonstrator=args.operator or "expert")
    device = pick_device(args.device)
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(args.peer_python)) if args.peer_python else None
        if args.gpu_report:
            sizes = TINY if args.tiny else FULL
            print(gpu_report.gpu_report(args.gpu_report, only, device, peer, sizes))
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = []
        for part in only:
            if part in ("experts", "roofline"):
                found = (
                    roofline.rooflines(args.batch_size).items()
                    if part == "roofline"
                    else simulation.demonstrator_successes(demonstrator, args.seeds, args.workers)
                )
                for what, told in found:
                    print(f"{what}: {told}", flush=True)
                    rows.append({"name": what, "told": told})
                continue
            found = measure(cases_of(part, args, peer, device, folder / part), args.rounds)
            print(table(found), flush=True)
            for row in found:
                if "flops_per_sample" in row:
                    rate = row["samples"] * row["flops_per_sample"] / row["ours"]["median"] * 1e3
                    row["mfu"] = rate / row["matmul_peak"]
                    flops, share = row["flops_per_sample"] / 1e9, 100 * row["mfu"]
                    print(f"{row['name']}: {flops:.1f} GFLOP per sample, {share:.0f} % of the matmul peak on {device}")
            rows += found
    if args.json is not None:
        text = json.dumps(rows, indent=2)
        if problem := keep(args.json, lambda path: path.write_text(text)):
            raise ConfigError(problem)


def cases_of(part: str, args: Args, peer: Peer | None, device, folder: Path) -> list[Case]:
    """What a part measures; `folder` is for its files."""
    from scripts.benchmarks import learning, scaling, simulation

    sizes = ((48, 64),) if args.tiny else SIZES
    match part:
        case "train":
            return learning.train_cases(peer, device, batch_size=args.batch_size)
        case "infer":
            return learning.infer_cases(peer, device)
        case "data":
            folders = []
            for height, width in sizes:
                folders.append(folder / f"{height}x{width}")
                record(RecordConfig(TASKS["transfer_cube"], {"top": (height, width)}), folders[-1], 4, args.workers)
            return learning.data_cases(peer, folders, device)
        case "env":
            return simulation.env_cases(peer)
        case "evaluation":
            return simulation.evaluation_cases(peer, args.episodes, args.workers, str(device))
        case "record":
            return simulation.record_cases(args.episodes, args.workers)
        case "scaling":
            return scaling.scaling_cases(device, folder, args.workers)
        case _:
            return simulation.file_cases(folder, sizes)


if __name__ == "__main__":
    run(main, Args)
