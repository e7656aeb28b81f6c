"""A file that appears under its name only when it is whole, and never replaces another."""

import os
import re
from io import FileIO
from pathlib import Path
from typing import Any


class AtomicFile(FileIO):
    """A new file, hidden as `.<name>.part` until `complete` gives it its name in one step.

    A failed write (no space left, say) is not raised but kept for `check`: HDF5 cannot let go of a file that it
    could not write; it would complain at every later step and crash as the process ends.
    """

    def __init__(self, path: Path):
        self.path = path
        self.partial = path.with_name(f".{path.name}.part")
        self.failure: OSError | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.partial.exists() and self.partial.stat().st_nlink > 1:  # a kill left it as a whole file's second name
            self.partial.unlink()
        super().__init__(self.partial, "w+")

    def write(self, data: Any, /) -> int:
        written = 0
        try:
            while written < len(data):
                written += super().write(data[written:])
        except OSError as error:
            self.failure = self.failure or error
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return self.tell()

    def check(self) -> None:
        """Raises the OSError of a write that failed."""
        if self.failure is not None:
            raise self.failure

    def complete(self) -> None:
        """Puts the file on the disk and gives it its name, or the next free number: see `move_to_free_name`."""
        self.check()
        os.fsync(self.fileno())
        self.close()
        self.path = move_to_free_name(self.partial, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)  # the new name, too, must survive a loss of power
        os.close(folder)

    def discard(self) -> None:
        """Removes the file, unless it was completed."""
        self.close()
        self.partial.unlink(missing_ok=True)


def move_to_free_name(source: Path, path: Path) -> Path:
    """Renames `source` to `path` in one step, without replacing a file; both are in one file system.

    Where another file has the name, the number at the end of the name counts up until it is free.

    Returns:
        The path that it got.

    Raises:
        FileExistsError: the name is taken and has no number.
    """
    while True:
        try:
            _move(source, path)
            return path
        except FileExistsError:
            if not (numbered := re.fullmatch(r"(.*_)(\d+)", path.stem)):
                raise
            path = path.with_stem(f"{numbered[1]}{int(numbered[2]) + 1}")


def _move(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:  # not every file system has hard links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(source, path)
    else:
        source.unlink()
