"""The frames of one camera: which layouts of others are read, how a frame is decoded, and which colours it then has.

    (T, H, W, 3) uint8                                       raw RGB
    (T, 3, H, W) uint8                                       raw RGB, colours first
    (T, W) uint8, (T,) strings or bytes of any length        a JPEG or PNG image a frame, zeros behind it or not

Images are recognised by their first bytes; the attribute `compress` only says that a row that is none is damaged. The
originals hand RGB to OpenCV, which takes it for BGR, when they write an image and again when they read one: their
images hold exchanged colours, and are turned back here. Whoever encoded true colours says so, see `Episode`.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Literal

import h5py
import numpy as np
from PIL import Image

from demos.file_reader import FileReader
from demos.hdf5_checks import UnfitError, check_size, failures_named, find
from demos.spec import EpisodeError

Layout = Literal["raw", "colours first", "encoded"]
FIRST_BYTES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
DEEP = ("I", "F")  # beginnings of Pillow's names for modes with more than 8 bits: depth, not colour


class NotPicturesError(ValueError):
    """What lies in the place of a camera holds no colour pictures."""


def camera_sizes(
    reader: FileReader, length: int, wanted: Sequence[str] | None
) -> tuple[dict[str, tuple[int, int]], dict[str, Layout]]:
    """Camera → (height, width), and → layout, each checked by its header alone, so that opening stays fast.

    Args:
        reader: of the file.
        length: T, which each must have.
        wanted: see `Episode`.

    Raises:
        EpisodeError: a camera that is needed cannot be used.
    """
    stored = reader.members("/observations/images")
    # Some robots keep depth images beside the colour images, under such names.
    colour = [name for name in stored if not name.endswith("_depth") or name in (wanted or ())]
    listed = reader.attributes.get("cameras", colour)
    if not reader.ours:
        reader.note_cameras([name for name in stored if name not in colour], "is depth by its name")
        if missing := [name for name in listed if name not in stored]:
            reader.notes.append(f"attribute cameras names {missing[0]}, which is missing: left out")
            listed = colour
    sizes: dict[str, tuple[int, int]] = {}
    layouts: dict[str, Layout] = {}
    for camera in listed:
        name = f"/observations/images/{camera}"
        if camera not in stored:
            known = ", ".join(stored) or "none"
            raise reader.error(f"attribute cameras names {camera}, but {name} is missing; the cameras are: {known}")
        try:
            sizes[camera], layouts[camera] = _camera(reader, name, length)
        except EpisodeError as error:
            # What is no colour picture is needed only if asked for, a damaged one unless others are asked for.
            reason = error.reason if isinstance(error, UnfitError) else None
            if reader.ours or (reason is None if wanted is None else camera in wanted):
                raise
            reader.note_cameras([camera], reason or "cannot be used and is not asked for")
    return sizes, layouts


def _camera(reader: FileReader, name: str, length: int) -> tuple[tuple[int, int], Layout]:
    images = find(reader.file, name)
    if isinstance(images, h5py.Group) and not reader.ours:
        raise reader.unfit(f"{name} is a group; it must be a dataset of frames", "is a group")
    if not isinstance(images, h5py.Dataset):
        raise reader.error(f"dataset {name} is missing")
    compressed, shape = bool(reader.attributes.get("compress", False)), tuple(images.shape or ())
    rows = compressed and len(shape) == 2 and images.dtype == np.uint8
    raw = len(shape) == 4 and shape[3] == 3
    if (reader.ours or raw) and images.dtype != np.uint8:
        raise reader.error(f"{name} has dtype {images.dtype}; frames must be uint8")
    fits = 0 not in shape[1:] and (rows if compressed else raw)
    if reader.ours and not fits:
        wanted = "(T, bytes of a JPEG image)" if compressed else "(T, height, width, 3)"
        raise reader.error(f"{name} has shape {shape}; it must be {wanted}")
    if shape and len(images) != length:
        raise reader.error(f"{name} has {len(images)} frames; this file's qpos has {length} steps")
    if shape and 0 not in shape:
        check_size(reader.file, name, images, frames=True)
    try:
        with failures_named(reader.path, f"{name} is damaged"):
            layout = "encoded" if rows else find_layout(images)
            image = next(encoded(images, 0, 1)) if layout == "encoded" else b""
        if layout == "encoded":
            shape = (length, *decode(image, False, f"{reader.path}: {name}: frame 0").shape)
    except NotPicturesError as error:
        raise reader.unfit(
            f"{name} {error}; frames must be uint8 of shape (T, height, width, 3), or JPEG images",
            f"{error}, no colour pictures",
        ) from error
    first = 2 if layout == "colours first" else 1
    return (shape[first], shape[first + 1]), layout


def find_layout(images: h5py.Dataset) -> Layout:
    """The layout of a camera's dataset, from its header and, of encoded images, at most three of its frames.

    Raises:
        NotPicturesError: it holds no colour pictures; the text says what instead.
    """
    shape, dtype = tuple(images.shape or ()), images.dtype
    if len(shape) == 4 and dtype == np.uint8 and 0 not in shape:
        if shape[3] == 3:
            return "raw"
        if shape[1] == 3 and shape[3] not in (1, 4):
            return "colours first"
    if shape and 0 not in shape and _may_be_encoded(shape, dtype):
        steps = dict.fromkeys((0, shape[0] // 2, shape[0] - 1))
        if any(next(encoded(images, t, t + 1)).startswith(FIRST_BYTES) for t in steps):
            return "encoded"
    raise NotPicturesError(f"is {dtype} of {len(shape)} axes" if dtype != np.uint8 else f"has {len(shape)} axes")


def _may_be_encoded(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    single = np.prod(shape[1:]) == 1
    if dtype.kind == "O":
        of = h5py.check_vlen_dtype(dtype)
        text = h5py.check_string_dtype(dtype) is not None
        return bool(single) and (text or (of is not None and of.itemsize == 1))
    if dtype.kind == "V":
        return bool(single) and dtype.names is None and dtype.subdtype is None
    return (dtype.kind == "S" and bool(single)) or (
        dtype.kind in "uiS" and dtype.itemsize == 1 and len(shape) in (2, 3)
    )


def encoded(images: h5py.Dataset, start: int, stop: int) -> Iterator[bytes]:
    """The bytes of frames start … stop - 1 of a dataset of encoded images, padding included."""
    rows = images[start:stop]
    for row in rows.reshape(len(rows), -1):
        one = row[0] if row.dtype.kind == "O" else row
        if isinstance(one, str):
            yield one.encode(errors="surrogateescape")
        else:
            yield one if isinstance(one, bytes) else one.tobytes()


def decode(image: bytes, exchanged: bool, what: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a JPEG or PNG image, whose red and blue are `exchanged` or not; `what` names it.

    Raises:
        NotPicturesError: it holds depth.
        EpisodeError: it is no image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.mode.startswith(DEEP):
                raise NotPicturesError("holds images of more than 8 bits a pixel")
            pixels = np.asarray(opened.convert("RGB"))
    except NotPicturesError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EpisodeError(f"{what} is not a JPEG image") from error
    return np.ascontiguousarray(pixels[..., ::-1] if exchanged else pixels)


def read_encoded(images: h5py.Dataset, steps: range, size: tuple[int, int], exchanged: bool, where: str) -> np.ndarray:
    """Decoded frames of consecutive `steps`, (n, H, W, 3) uint8 RGB; `where` names the dataset.

    Raises:
        EpisodeError: a frame is no image, of depth, or of another size than `size` (height, width).
    """
    frames = np.empty((len(steps), *size, 3), np.uint8)
    for i, image in enumerate(encoded(images, steps.start, steps.stop) if steps else ()):
        what = f"{where}: frame {steps[i]}"
        try:
            pixels = decode(image, exchanged, what)
        except NotPicturesError as error:
            raise EpisodeError(f"{what} {error}") from error
        if pixels.shape != frames.shape[1:]:
            sizes = f"{pixels.shape[0]}x{pixels.shape[1]}; frame 0 is {size[0]}x{size[1]}"
            raise EpisodeError(f"{what} is {sizes}; all frames of a camera must have one size")
        frames[i] = pixels
    return frames
