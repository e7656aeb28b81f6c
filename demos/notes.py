"""What was assumed and left out as the episodes of a data set were read, in a few lines."""

import zlib
from collections import Counter
from collections.abc import Sequence

from demos.episode import Episode

MOST = 12  # lines


def dataset_notes(episodes: Sequence[Episode]) -> list[str]:
    """The notes of all episodes, equal ones once, with how many episodes they are true of; and what shows only in a
    comparison: rates that differ a little, cameras that some lack, the same steps in two files.
    """
    counts = Counter(note for episode in episodes for note in episode.notes)
    lines = [f"{note} (in {count} of {len(episodes)} episodes)" for note, count in counts.items()]
    rates = sorted({episode.spec.fps for episode in episodes})
    if len(rates) > 1:
        lines.append(f"fps is {rates[0]:g} to {rates[-1]:g}: taken as {episodes[0].spec.fps:g}")
    cameras = Counter(camera for episode in episodes for camera in episode.spec.cameras)
    few = [f"{camera} is in {count}" for camera, count in cameras.items() if count < len(episodes)]
    if few:
        lines.append(f"of {len(episodes)} episodes, camera {', '.join(few)}")
    if again := _held_again(episodes):
        first, second = again[0]
        more = f", and {len(again) - 1} more such pairs" if len(again) > 1 else ""
        lines.append(f"{second.path} holds the same steps as {first.path}{more}: learnt from twice")
    return [*lines[:MOST], *([f"and {len(lines) - MOST} more notes"] if len(lines) > MOST else [])]


def _held_again(episodes: Sequence[Episode]) -> list[tuple[Episode, Episode]]:
    """Pairs of episodes with equal actions and joint positions."""
    seen: dict[tuple[int, int, int], Episode] = {}
    again = []
    for episode in episodes:
        key = episode.length, zlib.crc32(episode.action.tobytes()), zlib.crc32(episode.qpos.tobytes())
        if (first := seen.setdefault(key, episode)) is not episode:
            again.append((first, episode))
    return again
