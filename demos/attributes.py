"""The root attributes of an episode file: what each must be, and one line for one that is something else.

Files of this toolkit name their `format_version`: for them the rules are strict. In files of other recorders, numbers
may be text ("50"), text may be bytes, a value may be an array of one or a scalar dataset of the root group; what
still does not fit is left out, and a note says so. Only `sim` must fit in every file, since it decides which
observation an action belongs to.

Text has a fixed length here. HDF5 keeps text of any length apart, where no checksum reaches it, and numbers and text
of a fixed length beside their name, under one checksum.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

import h5py
import numpy as np

from demos.hdf5_checks import find
from demos.spec import ActionSemantics, EpisodeError

FASTEST = 100_000  # Hz, beyond any control loop
SMALL = 100_000  # values of a dataset that is read as an attribute, and bytes of one of them


def write_attributes(file: h5py.File, values: Mapping[str, Any]) -> None:
    """Root attributes of a file: text, numbers, booleans, or lists of texts."""
    for name, value in values.items():
        if isinstance(value, str | list | tuple):
            encoded = [text.encode() for text in ([value] if isinstance(value, str) else value)]
            array = np.array(encoded, h5py.string_dtype(length=max([1, *map(len, encoded)])))
            value = array.reshape(()) if isinstance(value, str) else array
        file.attrs[name] = value


def read_attributes(file: h5py.File) -> tuple[dict[str, Any], list[str]]:
    """Root attributes as plain types: text, numbers, booleans or lists of them; and what was left out, in sentences.

    Raises:
        EpisodeError: one of those in `RULES` is not what it must be.
    """
    found: dict[str, Any] = {}
    for name in file.attrs:
        try:
            found[name] = _plain(file.attrs[name])
        except (TypeError, ValueError):  # a type that numpy lacks: no concern of ours unless we need it
            found[name] = None
    notes = [] if "format_version" in found else _adapt(file, found)
    for name, (fits, wanted) in RULES.items():
        if name in found and not fits(found[name]):
            given = repr(found[name])
            given = given if len(given) <= 80 else f"{given[:77]} …"
            raise EpisodeError(f"{file.filename}: attribute {name} is {given}; it must be {wanted}")
        if name in found and fits is _flag:
            found[name] = bool(found[name])
    return found, notes


def _adapt(file: h5py.File, found: dict[str, Any]) -> list[str]:
    """Turns the values of a file of another recorder into what `RULES` wants, as far as they mean that."""
    notes = []
    for name, (fits, wanted) in RULES.items():
        if name not in found:
            value = small_dataset(file, name)
            if value is None or name == "format_version":
                continue
            found[name] = value
        value = found[name]
        if fits is not _names and isinstance(value, list) and len(value) == 1:
            value = value[0]
        value = ADAPTED.get(name, lambda value: value)(value)
        if fits(value) or name == "sim":
            found[name] = value
            continue
        del found[name]
        if (name, value) != ("seed", -1):  # which says that there is none
            notes.append(f"attribute {name} is not {wanted}: left out")
    return notes


def small_value(group: h5py.File | h5py.Group, name: str) -> Any:
    """An attribute of a group, or a dataset of one or a few values in it, as plain types; None if there is neither."""
    try:
        return _plain(group.attrs[name]) if name in group.attrs else small_dataset(group, name)
    except (OSError, RuntimeError, TypeError, ValueError):
        return None


def text_list(value: Any) -> list[str]:
    """The texts in a value that is a text or a (nested) list of texts, without blank ones; [] for other values."""
    if isinstance(value, list):
        parts = [text_list(each) for each in value]
        return [text for part in parts for text in part]
    return [value.strip()] if isinstance(value, str) and _text(value) and value.strip() else []


def small_dataset(group: h5py.File | h5py.Group, name: str) -> Any:
    """A dataset of one or a few values directly in a group, as plain types; None if there is none of this name."""
    try:
        dataset = find(group.file, f"{group.name}/{name}")
        if not isinstance(dataset, h5py.Dataset) or (dataset.size or SMALL + 1) > SMALL:
            return None
        if dataset.dtype.itemsize > SMALL or dataset.dtype.names:
            return None
        return _plain(dataset[()])
    except (EpisodeError, OSError, RuntimeError, TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.decode() if isinstance(value, bytes) else value


def _as_number(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([0-9.]+)\s*(hz|fps)?\s*", value, re.I)):
        try:
            return float(match[1])
        except ValueError:
            return value
    return value


def _as_whole(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_flag(value: Any) -> Any:
    if isinstance(value, str):
        return {word: flag for flag, words in FLAGS.items() for word in words}.get(value.strip().lower(), value)
    return bool(value) if isinstance(value, float) and value in (0, 1) else value


def _fps(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= FASTEST


def _seed(value: Any) -> bool:
    return _whole(value, 0)


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
    "fps": (_fps, "a positive number of steps a second, such as 50.0"),
    "seed": (_seed, "a whole number from 0 on"),
    "instruction": (lambda value: _text(value) or _names(value), "a sentence, or a list of sentences, each another"),
    "jpeg_colors": (lambda value: value in ("bgr", "rgb"), "bgr or rgb"),
    "cameras": (_names, "a list of names, text, each another"),
    "joint_names": (_names, "a list of names, text, each another"),
    "action_names": (_names, "a list of names, text, each another"),
    "action_semantics": (lambda value: value in get_args(ActionSemantics), ", ".join(get_args(ActionSemantics))),
    "robot": (_text, "text: a robot as JSON"),
}
"""Attribute → whether a value will do, and what will. Files of others have only `sim` and `compress`, if any."""

FLAGS = {True: ("true", "yes", "1", "1.0", "success"), False: ("false", "no", "0", "0.0", "failure")}
ADAPTED: dict[str, Callable[[Any], Any]] = {
    "fps": _as_number,
    "seed": _as_whole,
    "jpeg_colors": lambda value: value.strip().lower() if isinstance(value, str) else value,
    **dict.fromkeys(("sim", "compress", "success", "success_published"), _as_flag),
}
"""Attribute → what a value of another recorder means by it."""
