"""Where a recording in a folder stands, and whether the same command may go on with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demos.episode import Episode, NoEpisodesError, episode_number, find_episodes
from demos.provenance import changes
from demos.spec import EpisodeError, EpisodeSpec
from demos.writer import versions


@dataclass(frozen=True)
class Progress:
    """The episodes in a folder and the numbers below theirs that are missing, the seeds rejected so far, and the next
    number and seed."""

    recorded: int
    rejected: int
    number: int
    seed: int
    missing: tuple[int, ...] = ()


def resume(
    folder: Path, spec: EpisodeSpec, settings: Mapping[str, int | float | str], now: dict[str, str], first_seed: int
) -> Progress:
    """Checks the episodes in a folder.

    Args:
        folder: made if it is not there.
        spec: of the episodes that follow.
        settings: the root attributes that say how they are recorded.
        now: their provenance, see `demos.provenance`.
        first_seed: of a recording in an empty folder.

    Raises:
        EpisodeError: the folder holds episodes with other settings, or of another provenance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        paths = find_episodes(folder)
    except NoEpisodesError:
        return Progress(0, 0, 0, first_seed)
    episodes, seeds = [Episode(path) for path in paths], []
    for episode in episodes:
        _check_same_settings(episode, settings, spec)
        if episode.seed is None:
            raise EpisodeError(f"{episode.path}: has no seed, so the next one is unknown; name another folder")
        seeds.append(episode.seed)
    # Of the last one: the first may be from before episodes stored it.
    if changed := changes(episodes[-1].attributes, now, versions()):
        raise EpisodeError(
            f"{folder}: what determines its episodes has changed (here: in the folder, there: now): "
            f"{'; '.join(changed)}. Go back to what recorded it, or name another folder"
        )
    numbers = [episode_number(path) for path in paths]
    number, seed = numbers[-1] + 1, max(seeds) + 1
    missing = tuple(sorted({*range(number)} - {*numbers}))
    return Progress(len(paths), max(0, seed - first_seed - number), number, seed, missing)


def _check_same_settings(episode: Episode, settings: Mapping[str, object], spec: EpisodeSpec) -> None:
    """EpisodeError where an episode in the folder was recorded with other settings."""
    differences = episode.spec.differences(spec)
    older = {"traits": ""}  # files from before there were any
    for name, given in settings.items():
        stored = episode.attributes.get(name, older.get(name, "not stored"))
        if stored != given:
            differences.append(f"{name} is {_word(stored)} here, {_word(given)} there")
    if differences:
        raise EpisodeError(
            f"{episode.path.parent} holds episodes with other settings (here: in the folder, there: asked for): "
            f"{'; '.join(differences)}. Give the same settings to resume, or another folder"
        )


def _word(value: object) -> object:
    return "none" if value == "" else value
