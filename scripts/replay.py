"""Repeat the actions of a recorded episode from its seed and compare the states.

    python scripts/replay.py data/transfer_cube/episode_0.hdf5 --video replay.mp4

The largest qpos difference is 0 for files of this toolkit, on the machine and MuJoCo version that recorded them.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from act.errors import ConfigError
from demos.episode import Episode
from demos.replay import replay
from scripts.common import run
from scripts.outputs import check_file

VIDEOS = (".mp4", ".mov", ".mkv", ".avi")


@dataclass(frozen=True)
class Args:
    """Repeat the actions of a recorded episode from its seed and compare the states."""

    episode: Positional[Path]
    """File of the episode."""
    video: Path | None = None
    """Write a video of it, an MP4."""


def main(args: Args) -> int:
    check_file("--video", args.video)
    if args.video is not None and args.video.suffix.lower() not in VIDEOS:
        raise ConfigError(f"--video {args.video} is no video file; name one that ends in {', '.join(VIDEOS)}")
    episode = Episode(args.episode)
    result = replay(episode, args.video)
    print(f"{args.episode}: seed {episode.seed}, {episode.length} steps, {episode.spec.env_id}")
    print(f"largest qpos difference: {result.qpos_difference:.3g}")
    print(f"success: {result.success} (strict), {result.success_published} (published)")
    if args.video is not None:
        if not args.video.exists():
            return 2  # the recorder has printed the reason
        print(f"video: {args.video}")
    return 0


if __name__ == "__main__":
    run(main, Args)
