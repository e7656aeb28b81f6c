"""Record demonstrations in simulation, by the scripted expert or by a simulated person.

    python scripts/record.py --task transfer_cube --episodes 50 --out data/transfer_cube
    python scripts/record.py --task transfer_cube --demonstrator mixed --out data/mixed
    python scripts/record.py --task transfer_cube --episodes 2 --out data/tiny          # seconds on a CPU

Only successful episodes are kept, exactly as many as requested. The same command continues a half-filled folder after
the highest number and seed in it: it replaces no file, and does not record deleted episodes again.
Started by torchrun, on machines that share the folder, each process records its share; the episodes are the same.
"""

import scripts.early  # noqa: F401

# isort: split
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm import tqdm
from tyro.conf import arg

from demos.demonstrators import DEFAULT, DEMONSTRATORS
from demos.record import RecordConfig, record
from demos.traits import TRAITS
from envs import TASKS, env_id
from envs.aloha import CAMERAS
from scripts.common import ranks, run
from scripts.outputs import check_folder, only_writer

DEMONSTRATOR = "; ".join(f"{name}: {row.summary}" for name, row in DEMONSTRATORS.items())


@dataclass(frozen=True)
class Args:
    """Record demonstrations in simulation."""

    task: Annotated[str, arg(help=f"The task: {', '.join(TASKS)}.")]
    out: Path
    """Folder of the episodes: episode_0.hdf5, episode_1.hdf5 and so on."""
    episodes: int = 50
    """Number of successful episodes that the folder holds at the end."""
    cameras: Annotated[tuple[str, ...], arg(help=f"Cameras to record: {', '.join(CAMERAS)}.")] = ("top",)
    height: int = 120
    """Image height in pixels."""
    width: int = 160
    """Image width in pixels."""
    seed: int = 0
    """First seed. Keep demonstrations below 50,000: model selection uses seeds from there, evaluation from 100,000."""
    workers: int | None = None
    """Number of processes. Default: 2, or 1 on one core or for few episodes."""
    demonstrator: Annotated[
        str | None,
        arg(
            metavar=f"{{{','.join(DEMONSTRATORS)}}}", help=f"{DEMONSTRATOR}. Default: {DEFAULT}; with --traits: plain."
        ),
    ] = None
    noise: float = 0.0
    """Standard deviation in metres of perturbations from which the expert recovers; 0.02 to 0.05 is useful."""
    traits: Annotated[
        tuple[str, ...],
        arg(help=f"More traits of the demonstrator: {', '.join(TRAITS)}. demos/traits.py explains them."),
    ] = ()
    instruction: tuple[str, ...] = ()
    """Instruction of the episodes, in one or several phrasings. Default: some of the phrases in demos/tasks for the
    task, and for the variant that an episode shows."""


EACH = 3
"""With fewer episodes, a second process costs more time to start than it saves."""


def usual_workers(episodes: int) -> int:
    """The default of --workers."""
    return min(2, os.cpu_count() or 1, max(1, episodes // EACH))


def main(args: Args) -> None:
    cameras = dict.fromkeys(args.cameras, (args.height, args.width))
    who = args.demonstrator or ("plain" if args.traits else DEFAULT)
    config = RecordConfig(env_id(args.task), cameras, args.seed, args.noise, who, args.traits, args.instruction)
    check_folder("--out", args.out)
    with (
        ranks() as (rank, size, wait),
        only_writer(args.out, "recording"),
        tqdm(total=args.episodes, desc=f"recording {args.task}", unit="episode", disable=rank > 0) as bar,
    ):

        def progress(recorded: int, rejected: int) -> None:
            bar.set_postfix(rejected=rejected, refresh=False)
            bar.update(recorded - bar.n)

        done = record(
            config, args.out, args.episodes, args.workers or usual_workers(args.episodes), progress, rank, size, wait
        )
    if rank > 0:
        return
    written = sum(path.stat().st_size for path in args.out.glob("episode_*.hdf5")) / 1e6
    print(f"{args.out}: {done.episodes} episodes, {written:.1f} MB; {done.rejected} failed attempts were rejected")
    if done.missing:
        names = ", ".join(f"episode_{number}" for number in done.missing[:5]) + (", …" if len(done.missing) > 5 else "")
        print(f"{args.out}: no file has the name {names}; what was deleted is not recorded again")


if __name__ == "__main__":
    run(main, Args)
