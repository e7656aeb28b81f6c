"""One writer in a folder at a time: a lock that the system lets go of when its process ends, in whatever way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demos.spec import EpisodeError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None

LOCK = ".lock"

_held: set[int] = set()  # descriptors


def _let_go_in_fork() -> None:
    """A child would hold the lock on after its parent's death."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_fork)


@contextmanager
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Makes the folder if need be, and keeps others from writing into it as long as the context lasts.

    Where the file system or the machine has no locks, or the file cannot be made, nothing is kept.

    Args:
        what: "recording", say.

    Raises:
        EpisodeError: another process, or this one, does the same there.
    """
    made = not folder.exists()
    descriptor = _lock(folder / LOCK, what)
    try:
        yield
    finally:
        if descriptor in _held:  # else: in a fork, which has let go of it
            with suppress(OSError):  # the folder may be gone
                (folder / LOCK).unlink()
                if made:
                    folder.rmdir()  # unless something was written into it
            _held.remove(descriptor)
            os.close(descriptor)


def _lock(path: Path, what: str) -> int:
    """The descriptor of the locked file; -1 where there are no locks."""
    while fcntl is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # whoever writes there next will say what is wrong
            return -1
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            known = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            who = f" (process {known})" if known else ""
            raise EpisodeError(
                f"another {what} is running in {path.parent}{who}; wait until it ends, or name another folder"
            ) from None
        except OSError:
            os.close(descriptor)
            return -1
        os.close(descriptor)  # its last holder has just removed it
    return -1


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
