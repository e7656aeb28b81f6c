"""Where scripts write: known to work before the work begins, and what came of the work is never lost for it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from act.errors import ConfigError
from demos.folder_lock import lock_folder


@contextmanager
def only_writer(out: Path, what: str) -> Iterator[None]:
    """Keeps a second training (or what `what` says) out of an output folder; of several processes rank 0 does.

    Raises:
        EpisodeError: one is running there.
    """
    with lock_folder(out, what) if _is_first() else nullcontext():
        yield


def check_folder(flag: str, path: Path | None, hint: str = "name a folder that may be written") -> None:
    """Makes sure, by trying, that files can be written into a folder, which may not be there yet; leaves nothing there.

    Args:
        flag: of the command line, for the message; "--out", say.
        path: None is left unchecked.

    Raises:
        ConfigError: it is no folder, or cannot be made or written.
    """
    if path is None or not _is_first():  # several processes that try would disturb each other
        return
    _try_folder(f"{flag} {path}", path, hint)


def _try_folder(what: str, path: Path, hint: str) -> None:
    made = []
    try:
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                _refuse_other(what, folder, hint)
                folder.mkdir(exist_ok=True)
                made.append(folder)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0")
            probe.flush()
    except OSError as error:
        raise ConfigError(f"{what} cannot be written: {_reason(error)}; {hint}") from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def check_file(flag: str, path: Path | None) -> None:
    """The same for a file, which may be there and would be replaced then.

    Raises:
        ConfigError: it is a folder, or cannot be written.
    """
    if path is None or not _is_first():
        return
    hint = "name a file in a folder that may be written"
    try:
        if path.is_dir():
            raise ConfigError(f"{flag} {path} is a folder; name a file in it, such as {path / _example(flag)}")
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be written: {_reason(error)}; {hint}") from error
    if not path.exists() or path.is_file():
        _try_folder(f"{flag} {path}", path.parent, hint)
    if path.is_file():
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigError(f"{flag} {path} cannot be written: {_reason(error)}; {hint}") from error


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file beside `path`, which takes its place once it is whole. Devices and pipes are written at once.

    Args:
        write: is given the path to write to, which has the suffix of `path`.

    Raises:
        OSError: it cannot be written; what `path` was before is still there.
    """
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        write(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(path.suffix, ".", path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        write(partial)
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """ConfigError for what cannot be written within."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {_reason(error)}") from error


def keep(path: Path, write: Callable[[Path], Any]) -> str:
    """Writes what must not be lost: to `path`, or else beside nothing else in the present or the temporary folder.

    Returns:
        "" where it stands in `path`; else a line that says why not, and where it is.
    """
    try:
        write_file(path, write)
        return ""
    except OSError as error:
        line = f"{path} cannot be written: {_reason(error)}"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):
            other = _free(folder() / path.name)
            write_file(other, write)
            return f"{line}; it is in {other} instead"
    return f"{line}, and neither can another folder"


def _free(path: Path) -> Path:
    """A name that no file has yet."""
    names = (path.with_stem(f"{path.stem}_{i}") if i else path for i in range(10_000))
    return next(name for name in names if not os.path.lexists(name))


def _is_first() -> bool:
    """Whether this is the only process, or the first one that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _refuse_other(what: str, found: Path, hint: str) -> None:
    """ConfigError where something that is no folder stands where one is needed."""
    if os.path.lexists(found) and not found.is_dir():
        broken = found.is_symlink() and not found.exists()
        raise ConfigError(f"{what} cannot be written: {found} is {'a link to nothing' if broken else 'a file'}; {hint}")


def _example(flag: str) -> str:
    return {"--json": "results.json", "--video": "replay.mp4"}.get(flag, "picture.png")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
