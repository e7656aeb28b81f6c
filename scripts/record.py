"""Record demonstrations in simulation: by the scripted expert, or by an operator who demonstrates as people do.

    python scripts/record.py --task transfer_cube --episodes 50 --out data/transfer_cube
    python scripts/record.py --task transfer_cube --operator mixed --out data/mixed
    python scripts/record.py --task transfer_cube --episodes 2 --out data/tiny          # seconds on a CPU

Only successful episodes are kept, exactly as many as asked for. The same command goes on with a half-filled folder,
behind the highest number and seed in it: it replaces no file, and does not record again what was deleted.
Started by torchrun, on machines that share the folder, every process records its share; the episodes are the same.
"""

import scripts.early  # noqa: F401

# isort: split
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from demos.record import RecordConfig, record
from envs import env_id
from scripts.common import ranks, run
from scripts.outputs import check_folder, only_writer

Trait = Literal["pauses", "tempo", "wander", "overshoot", "misses", "approaches", "order", "idle_ends"]


@dataclass(frozen=True)
class Args:
    """Record demonstrations in simulation."""

    task: str
    """transfer_cube, insertion, hand_over, give_cube, lift_tray, stack or tip."""
    out: Path
    """Folder of the episodes: episode_0.hdf5, episode_1.hdf5 and so on."""
    episodes: int = 50
    """Successful episodes that the folder shall hold in the end."""
    cameras: tuple[str, ...] = ("top",)
    """Cameras to record: top, angle, left_pillar, right_pillar, front_close, left_wrist, right_wrist."""
    height: int = 120
    """Picture height in pixels."""
    width: int = 160
    """Picture width in pixels."""
    seed: int = 0
    """First seed. Keep demonstrations below 50,000: model selection uses seeds from there, evaluation from 100,000."""
    workers: int | None = None
    """Processes that simulate and write; default: two where there are two cores and enough episodes for both."""
    noise: float = 0.0
    """Size in metres of the scripted expert's detours, from which it recovers; 0.02 to 0.05 is useful."""
    operator: Literal["plain", "careful", "hasty", "mixed"] | None = None
    """Who demonstrates instead of the scripted expert: plain (as ACT's own scripts move), careful, hasty or mixed."""
    traits: tuple[Trait, ...] = ()
    """More traits of the operator, plain if none is named: pauses, tempo, wander, overshoot, misses, approaches, order,
    idle_ends."""
    instruction: tuple[str, ...] = ()
    """What the demonstrator is told to do, in one or several phrasings, for policies that are told so too; default:
    some of those that `demos/phrases.py` knows for the task and for the way the episode goes."""


EACH = 3
"""Episodes that a second process must have to do, or its start costs more than it saves."""


def usual_workers(episodes: int) -> int:
    """How many processes record so many episodes where nobody says."""
    return min(2, os.cpu_count() or 1, max(1, episodes // EACH))


def main(args: Args) -> None:
    cameras = dict.fromkeys(args.cameras, (args.height, args.width))
    operator = args.operator or ("plain" if args.traits else "")
    config = RecordConfig(env_id(args.task), cameras, args.seed, args.noise, operator, args.traits, args.instruction)
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
