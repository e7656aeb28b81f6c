"""Which files are episodes: of a folder, of several, or a file by itself."""

import re
from collections.abc import Iterable
from itertools import chain, pairwise
from pathlib import Path

from demos.hdf5_checks import refuse_special, refused_by_system
from demos.spec import EpisodeError

SUFFIXES = (".hdf5", ".h5")
NAMES = "their files are named episode_0.hdf5, episode_1.hdf5, …"


class NoEpisodesError(EpisodeError):
    """A folder that has no episodes, and may be read."""


def episode_number(path: Path) -> int:
    """The number in the name of an episode's file, episode_<number>.hdf5 or .h5; -1 for other names."""
    match = re.fullmatch(r"episode_(\d+)\.(hdf5|h5)", path.name, re.ASCII)
    return int(match[1]) if match else -1


def find_episodes(folder: str | Path) -> list[Path]:
    """The files episode_0.hdf5, episode_1.hdf5, … of a folder, by number; of a file the file itself.

    Raises:
        EpisodeError: there are none, with what there is instead; two have the same number; it may not be read.
    """
    folder = Path(folder)
    try:
        if not folder.exists():
            raise EpisodeError(f"{folder}: no such folder; scripts/record.py records demonstrations into one")
        if not folder.is_dir():
            refuse_special(folder)
            return [folder]
        inside = sorted(folder.iterdir())
        numbered = sorted((number, path) for path in inside if (number := episode_number(path)) >= 0)
        if not numbered:
            raise NoEpisodesError(f"{folder}: no episodes in it; {_instead(inside)}")
    except OSError as error:
        raise EpisodeError(f"{folder}: {refused_by_system(error) or error}") from error
    for _, path in numbered:
        refuse_special(path)
    for (one, path), (other, next_path) in pairwise(numbered):
        if one == other:
            raise EpisodeError(f"{folder}: {path.name} and {next_path.name} have one number; remove one")
    return [path for _, path in numbered]


def _instead(inside: list[Path]) -> str:
    """What a folder has in the place of episodes, and what would work."""
    named_otherwise = [path for path in inside if path.suffix in SUFFIXES and not path.name.startswith(".")]
    if named_otherwise:
        return f"{NAMES}; it has {_some([path.name for path in named_otherwise])}: rename them"
    below = [path for path in inside if path.is_dir()]
    below = [*below, *chain.from_iterable(sorted(path.iterdir()) for path in below[:100])]
    with_episodes = [
        path for path in below[:1000] if path.is_dir() and any(episode_number(each) >= 0 for each in path.iterdir())
    ]
    if with_episodes:
        return f"its sub-folders have some: name {_some([str(path) for path in with_episodes], ' ')} instead"
    return NAMES


def _some(names: list[str], between: str = ", ", most: int = 3) -> str:
    more = f"{between}and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def find_all_episodes(folders: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """The episodes of several folders or files, each once, and a sentence for each that is named again.

    Raises:
        EpisodeError: see `find_episodes`.
    """
    found: dict[object, Path] = {}
    notes: list[str] = []
    for folder in folders:
        paths, again = find_episodes(folder), []
        for path in paths:
            first = found.setdefault(_identity(path), path)
            again += [first] if first is not path else []
        if len(again) == len(paths) and _identity(Path(folder)) in (_identity(again[0].parent), _identity(again[0])):
            notes.append(f"{folder} is named twice: read once")
        elif again:
            told = f"{len(again)} of {len(paths)} episodes in {folder} are named before"
            notes.append(f"{told}, such as {again[0]}: each is read once")
    return list(found.values()), notes


def _identity(path: Path) -> object:
    """Equal for all names of a file, links of both kinds included."""
    try:
        state = path.stat()
    except OSError:  # to be named when it is opened
        return path
    return state.st_dev, state.st_ino
