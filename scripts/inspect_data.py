"""Inspect a folder of demonstrations: a table, a contact sheet of every camera, plots of all joints.

    python scripts/inspect_data.py data/transfer_cube

Every file is checked on the way. Seconds on a CPU; the pictures go to data/transfer_cube/inspect.
"""

import scripts.early  # noqa: F401

# isort: split
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tyro.conf import Positional

from act.errors import ConfigError
from act.presets import settings
from act.targets import describe_changes, targets_of
from demos.episode import Episode, check_dataset, find_all_episodes
from demos.notes import dataset_notes
from demos.pictures import contact_sheet, joint_plots
from demos.robot import Arm
from demos.robot_files import robot_for
from demos.spec import ActionSemantics, EpisodeSpec, JpegColors
from scripts.common import columns, run
from scripts.outputs import check_folder, failures_named


@dataclass(frozen=True)
class Args:
    """Inspect a folder of demonstrations: a table, a contact sheet of every camera, plots of all joints."""

    data: Positional[Path]
    """Folder of episodes: episode_0.hdf5, episode_1.hdf5 and so on."""
    out: Path | None = None
    """Folder for the pictures; default: inspect/ in the data folder."""
    rows: int = 8
    """Number of episodes in a contact sheet, at equal distances in the data."""
    cameras: tuple[str, ...] | None = None
    """Cameras to read, if the episodes have different ones; default: all."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames: bgr, rgb, or auto, as the files say; see scripts/train.py."""
    robot: Path | None = None
    """The robot of the episodes, in place of what the files say: an MJCF or URDF file, or the JSON of a Robot."""
    action_semantics: ActionSemantics | None = None
    """What an action commands, in place of what the files say or their numbers suggest; see scripts/train.py."""


def main(args: Args) -> None:
    paths, notes = find_all_episodes([args.data])
    given: Any = {"cameras": args.cameras, "jpeg_colors": args.jpeg_colors, "action_semantics": args.action_semantics}
    if args.robot is not None:
        given["robot"], note = robot_for(args.robot, Episode(paths[0], cameras=()))
        notes += [note] if note else []
    spec = check_dataset(paths, **given)
    episodes = [Episode(path, **given) for path in paths]
    out = args.out or (args.data if args.data.is_dir() else args.data.parent) / "inspect"
    problem = None
    try:
        check_folder("--out", out, f"name a folder that may be written, such as --out {_elsewhere()}")
    except ConfigError as error:
        if args.out is not None:
            raise
        problem = error
    for note in [*notes, *dataset_notes(episodes)]:
        print(f"note: {note}")
    print(table(episodes), summary(episodes, spec), sep="\n\n")
    print(f"targets of train.py --preset cpu: {changes(episodes, spec=spec)}")

    if problem is not None:  # the table needed no folder
        raise problem
    picked = np.unique(np.linspace(0, len(episodes) - 1, args.rows).round().astype(int))
    with failures_named(out):
        out.mkdir(parents=True, exist_ok=True)
        for camera in spec.cameras if args.cameras is None else args.cameras:
            contact_sheet([episodes[i] for i in picked], camera, out / f"{camera}.png")
        joint_plots(episodes, out / "joints.png")
    print(f"pictures: {', '.join(sorted(str(path) for path in out.glob('*.png')))}")


def _elsewhere() -> Path:
    """A folder for pictures that may be written."""
    for folder in (Path(), Path(tempfile.gettempdir())):
        with suppress(ConfigError):
            check_folder("", folder)
            return folder / "inspect"
    return Path("…")


def table(episodes: Sequence[Episode]) -> str:
    """A line an episode."""
    head = ("episode", "steps", "seconds", "MB", "seed", "expert", "success", "published", "highest reward")
    lines: list[tuple[str, ...]] = [head]
    for episode in episodes:
        reward = None if episode.reward is None else f"{episode.reward.max():g}"
        size = episode.path.stat().st_size / 1e6
        told = (episode.seed, episode.expert, _yes_no(episode.success), _yes_no(episode.success_published), reward)
        length = (str(episode.length), f"{episode.length / episode.spec.fps:.1f}", f"{size:.1f}")
        lines.append((episode.path.stem, *length, *("-" if value is None else str(value) for value in told)))
    return columns(lines)


def summary(episodes: Sequence[Episode], spec: EpisodeSpec) -> str:
    """What all of them share, and the totals."""
    lengths = [episode.length for episode in episodes]
    cameras = [f"{name} {height}x{width}" for name, (height, width) in spec.cameras.items()]
    told = [episode.success for episode in episodes if episode.success is not None]
    size = sum(episode.path.stat().st_size for episode in episodes) / 1e6
    return "\n".join(
        [
            f"{len(episodes)} episodes, {sum(lengths)} steps, {size:.1f} MB",
            f"task:    {spec.task or 'not told'} ({spec.env_id or 'no environment named'})",
            f"lengths: {min(lengths)} to {max(lengths)} steps, median {median(lengths):g}, at {spec.fps:g} Hz",
            f"success: {sum(told)} of {len(told)} that tell" if told else "success: not told",
            f"cameras: {', '.join(cameras) or 'none'}",
            f"joints:  {len(spec.joint_names)}; object poses: {spec.env_state_dim or 'none'}",
            f"arms:    {'; '.join(map(_arm_in_words, spec.robot.arms)) or 'not known'}",
            f"actions: {spec.action_dim}, {spec.action_semantics.replace('_', ' ').replace('ee', 'end effector')}",
        ]
    )


def _arm_in_words(arm: Arm) -> str:
    gripper, chain = "a gripper" if arm.gripper is not None else "no gripper", "" if arm.chain else "no "
    return f"{arm.name} with {len(arm.joints)} joints, {gripper}, {chain}kinematic chain"


def changes(episodes: Sequence[Episode], preset: str = "cpu", spec: EpisodeSpec | None = None) -> str:
    """What a training with this preset and no other flag learns otherwise than the files have it."""
    policy, training = settings(preset)
    flags = {"drop_idle_steps": training.drop_idle_steps, "drop_failed_grasps": training.drop_failed_grasps}
    targets = [targets_of(episode, policy.chunk_size + 1, **flags, spec=spec) for episode in episodes]
    return describe_changes(episodes, targets, training.learn_from)


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


if __name__ == "__main__":
    run(main, Args)
