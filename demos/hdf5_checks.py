"""What is looked at before an episode's arrays are read: that they lie in this file, whole, and of a sane size.

HDF5 follows links and keeps data wherever a file says: in another file, in no file at all, behind a filter that is not
installed. A file that does so could read any file of the machine as actions, wait forever, or ask for all the memory.
"""

import errno
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5g, h5l, h5o, h5z  # pyright: ignore[reportAttributeAccessIssue] (no stubs)

from demos.spec import EpisodeError

MAX_STEPS = 1_000_000  # five and a half hours at 50 Hz
MAX_ARRAY = 2**30  # bytes of a whole array that is kept in memory: 130 doubles a step for all of these steps
MAX_FRAME = 2**28  # bytes of one picture: 8K video has 100 MB
NOT_WHOLE = "is not a whole HDF5 file"
DAMAGED = "is damaged; copy or record it again, or leave it out"
OPEN_FLAG = "file is already open for write"  # HDF5's words where a writer has set, and not cleared, a flag in the file
REFUSALS = {
    errno.EAGAIN: "is open for writing in another program; close it there",
    errno.ENOLCK: "cannot be locked on this file system; set HDF5_USE_FILE_LOCKING=FALSE if nobody writes into it",
    errno.EACCES: "may not be read (permission denied); allow it with chmod, or ask its owner",
    errno.EPERM: "may not be read (not permitted); ask its owner",
    errno.EMFILE: "cannot be opened: this process has too many files open; raise the limit with ulimit -n",
    errno.ENFILE: "cannot be opened: this machine has too many files open; close some",
    errno.EIO: "cannot be read: the disk or network gives an input/output error; the file may be whole",
    errno.ESTALE: "cannot be read: the network file system lost it (stale file handle); mount it again",
}
"""Error number → what the operating system refuses. None of them says anything about the file's content."""
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class UnfitError(EpisodeError):
    """A dataset that cannot be used; `reason` says why without numbers, the same for all files with this fault."""

    def __init__(self, line: str, reason: str):
        super().__init__(line)
        self.reason = reason


def refused_by_system(error: BaseException) -> str | None:
    """Why the operating system, not the file's content, keeps a file from being read; None if it does not."""
    text = str(error)
    if OPEN_FLAG in text:
        return "is open for writing in another program, or was when that ended; close it there, or run h5clear -s FILE"
    told = re.search(r"errno = (\d+)", text)
    number = getattr(error, "errno", None) or (int(told[1]) if told else None)
    if not number:
        return None
    if "lock file" in text and number in (errno.EACCES, errno.EWOULDBLOCK):  # some systems refuse a lock with EACCES
        number = errno.EAGAIN
    return REFUSALS.get(number, f"cannot be read: {os.strerror(number)}")


@contextmanager
def failures_named(path: Path, failure: str = NOT_WHOLE) -> Iterator[None]:
    """EpisodeError for what opening and reading a file raises: what the system refuses, or else `failure`."""
    try:
        yield
    except FileNotFoundError as error:
        raise EpisodeError(f"{path}: no such file") from error
    except (OSError, RuntimeError, KeyError, zlib.error) as error:
        why = refused_by_system(error) or f"{failure}; copy or record it again, or leave it out"
        raise EpisodeError(f"{path}: {why}") from error


def refuse_special(path: Path) -> None:
    """EpisodeError for what is there and no file: to open a FIFO would wait for somebody to write into it."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EpisodeError(f"{path}: {refused_by_system(error) or error}") from error
    if kind != stat.S_IFREG:
        raise EpisodeError(f"{path}: is {KINDS.get(kind, 'no file')}, not a file; move it elsewhere")


def find(file: h5py.File, name: str) -> h5py.Dataset | h5py.Group | None:
    """What lies under an absolute name in this very file; None if nothing does.

    Raises:
        EpisodeError: it is damaged, elsewhere (a link, raw data in another file, a virtual dataset), or packed with a
            filter that is not installed.
    """
    place, way = file.id, ""
    for part in name.strip("/").split("/"):
        key, way = part.encode(errors="surrogateescape"), f"{way}/{part}"
        if not isinstance(place, h5g.GroupID) or not key or not place.links.exists(key):
            return None
        # Looked at before it is followed: it may lead to a FIFO, say.
        if place.links.get_info(key).type != h5l.TYPE_HARD:
            raise EpisodeError(f"{file.filename}: {way} is a link to another place; copy the data itself into the file")
        try:
            place = h5o.open(place, key)
        except (KeyError, RuntimeError, OSError) as error:
            raise EpisodeError(f"{file.filename}: {way} {DAMAGED}") from error
    if isinstance(place, h5g.GroupID):
        return h5py.Group(place)
    if not isinstance(place, h5d.DatasetID):
        return None
    _refuse_elsewhere(f"{file.filename}: {name}", place.get_create_plist())
    return h5py.Dataset(place)


def _refuse_elsewhere(where: str, properties: Any) -> None:
    if properties.get_external_count() or properties.get_layout() == h5d.VIRTUAL:
        raise EpisodeError(f"{where} keeps its values in other places; copy the values themselves into this file")
    for i in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(i)
        if not h5z.filter_avail(code):
            known = f" ({label.decode(errors='replace')})" if label else ""
            raise EpisodeError(
                f"{where} is packed with HDF5 filter {code}{known}, which is not installed here; "
                "save it with gzip, or without any filter"
            )


def check_size(file: h5py.File, name: str, dataset: h5py.Dataset, frames: bool = False) -> None:
    """Before memory is asked for: EpisodeError for absurd sizes, and for values that were never written."""
    shape, itemsize, where = dataset.shape, dataset.dtype.itemsize, f"{file.filename}: {name}"
    if shape[0] > MAX_STEPS:
        raise EpisodeError(f"{where} has {shape[0]} steps; an episode has at most {MAX_STEPS}")
    whole, chunk = math.prod(shape) * itemsize, math.prod(dataset.chunks or ()) * itemsize
    if frames and (frame := whole // shape[0]) > MAX_FRAME:
        raise EpisodeError(f"{where} has frames of {frame} bytes, shape {shape}; a frame has at most {MAX_FRAME}")
    if (size := max(chunk, 0 if frames else whole)) > MAX_ARRAY:
        raise EpisodeError(f"{where} needs {size} bytes of memory, shape {shape}; it must be {MAX_ARRAY} at most")
    # HDF5 reads zeros where nothing was written.
    if dataset.id.get_create_plist().get_nfilters():
        wanted = math.prod(-(-n // m) for n, m in zip(shape, dataset.chunks or shape, strict=True))
        stored, unit = dataset.id.get_num_chunks(), "chunks"
    else:
        stored, wanted, unit = dataset.id.get_storage_size(), whole, "bytes"
    if stored < wanted:
        raise EpisodeError(f"{where} was written only in part: {stored} of {wanted} {unit} are there; leave it out")
