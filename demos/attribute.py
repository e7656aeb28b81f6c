"""The root attributes of an episode file: what each must be, and one line for one that is something else.

Text has a fixed length here. HDF5 keeps text of any length apart, where no checksum reaches it, and numbers and text
of a fixed length beside their name, under one checksum.
"""

from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np

from demos.spec import EpisodeError

FASTEST = 100_000  # Hz, beyond any control loop


def write(file: h5py.File, values: Mapping[str, Any]) -> None:
    """Root attributes of a file: text, numbers, booleans, or lists of texts."""
    for name, value in values.items():
        if isinstance(value, str | list | tuple):
            encoded = [text.encode() for text in ([value] if isinstance(value, str) else value)]
            array = np.array(encoded, h5py.string_dtype(length=max([1, *map(len, encoded)])))
            value = array.reshape(()) if isinstance(value, str) else array
        file.attrs[name] = value


def read(file: h5py.File) -> dict[str, Any]:
    """Root attributes as plain types: text, numbers, booleans or lists of them.

    Raises:
        EpisodeError: one of those in `RULES` is not what it must be.
    """
    found: dict[str, Any] = {}
    for name in file.attrs:
        try:
            found[name] = _plain(file.attrs[name])
        except (TypeError, ValueError):  # a type that numpy lacks: no concern of ours unless we need it
            found[name] = None
    for name, (fits, wanted) in RULES.items():
        if name in found and not fits(found[name]):
            given = repr(found[name])
            given = given if len(given) <= 80 else f"{given[:77]} …"
            raise EpisodeError(f"{file.filename}: attribute {name} is {given}; it must be {wanted}")
        if name in found and fits is _flag:
            found[name] = bool(found[name])
    return found


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode() if isinstance(value, bytes) else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _flag(value: Any) -> bool:
    return isinstance(value, bool | int) and value in (0, 1)


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value  # h5py keeps bytes of no letter


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(_text(name) and name for name in value) and len(set(value)) == len(value)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format_version": (lambda value: _whole(value, 1), "a whole number from 1 on"),
    **dict.fromkeys(("sim", "compress", "success", "success_published"), (_flag, "true or false")),
    **dict.fromkeys(("env_id", "task", "action_layout", "expert"), (_text, "text")),
    "fps": (lambda value: _number(value) and 0 < value <= FASTEST, "a positive number of steps a second, such as 50.0"),
    "seed": (lambda value: _whole(value, 0), "a whole number from 0 on"),
    "instruction": (lambda value: _text(value) or _names(value), "a sentence, or a list of sentences, each another"),
    "cameras": (_names, "a list of names, text, each another"),
    "joint_names": (_names, "a list of names, text, each another"),
}
"""Attribute → whether a value will do, and what will. Files of others have only `sim` and `compress`, if any."""
