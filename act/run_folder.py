"""What a training run leaves on disk, and the rules for writing into a folder that is already there.

    config.json               every setting, the data, and what the episodes contain
    metrics.jsonl             one JSON object a line: "step" and what was measured after it
    checkpoints/step_N.pt     the newest few checkpoints
    last.pt, best.pt          two of them under a fixed name (hard links: they take no space)
    curves.png                the curves of metrics.jsonl

Every file but metrics.jsonl appears under its name only when it is whole; metrics.jsonl is cut back to the step of the
checkpoint that a run resumes from. So a kill at any moment costs the steps since the last checkpoint and nothing else.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from act.errors import ConfigError
from act.stored_names import current_names
from demos.folder_lock import LOCK
from demos.spec import EpisodeError, EpisodeSpec

SPEC = "episode_"  # begins the name of each setting that describes the episodes
BEFORE = {"jpeg_colors": "auto", "robot": "", "action_semantics": "auto"}
"""Settings that runs of older versions do not name → what they were trained with."""


class RunFolder:
    """A training run's output folder."""

    def __init__(self, path: Path):
        self.path = path
        self.config, self.metrics, self.curves = path / "config.json", path / "metrics.jsonl", path / "curves.png"
        self.best, self.last = path / "best.pt", path / "last.pt"

    def settings(self) -> dict | None:
        """The settings of the run that is in this folder, None if there is none.

        Raises:
            ConfigError: config.json is damaged.
        """
        if not self.config.exists():
            return None
        settings = _json(self.config.read_bytes())
        if not isinstance(settings, dict):
            raise ConfigError(f"{self.config} is damaged; put it back, or train anew in another --out")
        return _with_present_spec(current_names(settings))

    def claim(self, settings: dict, resume: bool, free: set[str]) -> None:
        """Makes the folder this run's, or refuses.

        Args:
            settings: flat name → plain value; everything the run's results depend on, and more.
            resume: whether a run that is already there may be continued. A folder without one starts a new run.
            free: names that may change when a run continues.

        Raises:
            ConfigError: the folder holds something else, a run with other settings, or this run without `resume`.
        """
        old, new = self.settings(), json.loads(json.dumps(settings))
        if old is None:
            if self.path.is_dir() and (found := sorted(p.name for p in self.path.iterdir() if p.name != LOCK)):
                raise ConfigError(f"{self.path} holds {found[0]} and no run; use an empty or another --out")
        else:
            old = {name: value for name, value in BEFORE.items() if name in new} | old
            names = [
                name for name in old | new if name not in free | _compared(old, new) and old.get(name) != new.get(name)
            ]
            if names:
                changed = "; ".join(f"{name} {_text(old, name)} there, {_text(new, name)} now" for name in names)
                other_data = {"episodes", "episodes_checksum", "data_checksum"} & set(names)
                start = f" with --init {self.path}, to start from its weights" if other_data and resume else ""
                raise ConfigError(
                    f"{self.path} holds a run with other settings ({changed}); "
                    f"use its settings and --resume to continue it, or another --out{start}"
                )
            if not resume:
                raise ConfigError(f"{self.path} already holds this run; use --resume to continue it, or another --out")
        with _writing(self.path):
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_atomically(self.config, json.dumps(new, indent=2).encode())
        for partial in self.path.rglob(".*.part"):  # left by a kill
            partial.unlink()

    def save(self, step: int, checkpoint: bytes, best: bool, keep: int) -> None:
        """Writes the checkpoint of `step`, points last.pt (and best.pt) to it, and keeps the newest `keep`."""
        path = self.path / "checkpoints" / f"step_{step:08d}.pt"
        write_atomically(path, checkpoint)
        for name in [self.last, self.best] if best else [self.last]:
            _link(path, name)
        for old in sorted(path.parent.glob("step_*.pt"))[:-keep]:
            old.unlink()

    def append(self, record: dict) -> None:
        """Adds one line to metrics.jsonl."""
        with _writing(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def history(self) -> list[dict]:
        """All whole lines of metrics.jsonl; the last one is none where a kill cut it off.

        Raises:
            ConfigError: a line is damaged.
        """
        lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.exists() else []
        records = []
        for number, line in enumerate(lines, start=1):
            if line.endswith(b"\n"):
                records.append(record := _json(line))
                numbers = isinstance(record, dict) and all(isinstance(value, int | float) for value in record.values())
                if not numbers or "step" not in record:
                    raise ConfigError(f"{self.metrics}: line {number} is damaged; mend it or take it out")
        return records

    def rewind(self, step: int) -> None:
        """Forgets what metrics.jsonl tells about later steps."""
        kept = [record for record in self.history() if record["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(record) + "\n" for record in kept).encode())


def _with_present_spec(settings: dict) -> dict:
    """The settings with what they say about the episodes as `EpisodeSpec.to_dict` says it today."""
    stored = {name: value for name, value in settings.items() if name.startswith(SPEC)}
    try:
        spec = EpisodeSpec.from_dict({name.removeprefix(SPEC): value for name, value in stored.items()})
    except EpisodeError:  # damaged, or from a later version: shown as it is
        return settings
    present = json.loads(json.dumps({f"{SPEC}{name}": value for name, value in spec.to_dict().items()}))
    return {name: value for name, value in settings.items() if name not in stored} | present


def describe_data(data: Sequence[Path], folder: Path) -> dict[str, list[str | None]]:
    """Where the data of a run in `folder` are, as config.json holds it and `find_data` reads it."""
    return {
        "data": [str(each.absolute()) for each in data],
        "data_from_run": [_relative(each, folder) for each in data],
    }


def _relative(path: Path, start: Path) -> str | None:
    try:
        return os.path.relpath(path.resolve(), start.resolve())
    except ValueError:  # another drive of Windows
        return None


def find_data(stored: dict, folder: Path) -> tuple[Path, ...]:
    """The data folders of the run with these settings in `folder`, wherever both were moved together.

    Raises:
        ConfigError: one is not where it was, nor in the same place as seen from the run folder; or the settings are
            damaged.
    """
    found, run = [], folder.resolve()
    data = stored.get("data")
    if not isinstance(data, list) or not all(isinstance(told, str) for told in data):
        raise ConfigError(f"{folder}/config.json is damaged (data is {data!r}); put it back, or train anew")
    from_run = stored.get("data_from_run") or [None] * len(data)
    for told, relative in zip(data, from_run, strict=False):
        places = [Path(told)]
        if relative is not None:
            places.append(Path(os.path.normpath(run / relative)))
        elif not Path(told).is_absolute():  # older runs tell no more than what was typed, from a folder above the run's
            places += [parent / told for parent in run.parents]
        if not (there := [place for place in places if place.exists()]):
            looked = " or ".join(dict.fromkeys(str(place.absolute()) for place in places[:2]))
            raise ConfigError(f"the data of the run in {folder} are not in {looked}; say where they are with --data")
        found.append(there[0])
    return tuple(found)


def _compared(old: dict, new: dict) -> set[str]:
    """Settings that say nothing about whether the run is the same: where the data are, and which checksum is of no
    use. Old runs have none of the episodes' files, but of what was made of them."""
    both = "episodes_checksum" in old and "episodes_checksum" in new
    ignored = {"data", "data_from_run", "init"} | ({"data_checksum"} if both else {"episodes_checksum"})
    if old.get("episodes") != new.get("episodes"):  # which says it all
        ignored |= {"data_checksum", "episodes_checksum"}
    return ignored | ({"preset", "eval_episodes"} - old.keys())  # runs of `act.fit.fit` have none


DEMO = Path(__file__).parent / "assets" / "demo.pt"
"""The policy that comes with the package, under the name "demo"; see `act.export`."""


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint file that a path means: itself, or of a run folder best.pt, or last.pt before there is a best;
    "demo" is the policy of the package where there is no such file or folder.

    Raises:
        ConfigError: there is no such file, or the run folder has none yet.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        if path == Path("demo"):
            return DEMO
        raise ConfigError(
            f"{path}: no such checkpoint; give a run folder of scripts/train.py, a .pt file in it or demo"
        )
    folder = RunFolder(path)
    for file in (folder.best, folder.last):
        if file.is_file():
            return file
    raise ConfigError(f"{path} holds no checkpoint yet (best.pt or last.pt); train with --out {path} first")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file beside `path`, which becomes `path` once it is on the disk, whole.

    Raises:
        ConfigError: it cannot be written; what `path` was before is still there.
    """
    partial = _partial(path)
    try:
        with _writing(path), partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _link(source: Path, path: Path) -> None:
    partial = _partial(path)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # not every file system has hard links
        write_atomically(path, source.read_bytes())
    else:
        os.replace(partial, path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"{path} cannot be written: {reason}; all that was written before is whole, --resume continues from there"
        ) from error


def output_folder(checkpoint: Path) -> Path:
    """Where what is made with a checkpoint goes by default: its run folder; runs/demo for that of the package."""
    if checkpoint == DEMO:
        return Path("runs") / "demo"
    # The newest few checkpoints of a run lie one folder further down.
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def _json(text: bytes) -> Any:
    """What a JSON text says; None where it is damaged."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _text(settings: dict, name: str) -> str:
    return repr(settings[name]) if name in settings else "unset"
