"""A file that appears under its name only when it is whole."""

import os
from io import FileIO
from pathlib import Path
from typing import Any


class PartialFile(FileIO):
    """A new file, hidden as `.<name>.part` until `complete` gives it its name in one step.

    A failed write (no space left, say) is not raised but kept for `check`: HDF5 cannot let go of a file that it
    could not write; it would complain at every later step and crash as the process ends.
    """

    def __init__(self, path: Path):
        self.path = path
        self.partial = path.with_name(f".{path.name}.part")
        self.failure: OSError | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
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
        """Puts the file on the disk and gives it its name."""
        self.check()
        os.fsync(self.fileno())
        self.close()
        os.replace(self.partial, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(folder)  # the new name, too, must survive a loss of power
        os.close(folder)

    def discard(self) -> None:
        """Removes the file, unless it was completed."""
        self.close()
        self.partial.unlink(missing_ok=True)
