"""An open episode file, read by the rules for its kind: strict where it names our format_version, lenient elsewhere.

What a lenient reading assumes or leaves out goes into `notes`: sentences without the numbers of a single file, so that
those of many files are equal.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from demos import attributes
from demos.guesses import guess_semantics, is_aloha, with_units_of
from demos.hdf5_checks import UnfitError, check_size, failures_named, find
from demos.robot import ALOHA, Robot
from demos.spec import (
    ACTION_LAYOUT,
    ActionSemantics,
    EpisodeError,
    default_action_names,
    known_robot,
    largest,
)

INSTRUCTIONS = ("instruction", "instructions", "language_raw", "language_instruction", "language_instructions")
ARRAYS = ("action", "expert_action", "base_action", "reward", "human", "qpos", "qvel", "effort", "env_state")
KNOWN = {*ARRAYS, "observations", "images", "compress_len", *INSTRUCTIONS, *attributes.RULES}
"""Names that are read, or that need no word; `compress_len` counts the bytes of JPEG images before their padding."""


class FileReader:
    """An open episode file.

    Attributes:
        path, file: which.
        attributes: its root attributes, as plain types.
        ours: it names its format_version.
        notes: what was assumed and left out so far.
        guessed: fields of the spec that the file does not say, read off its numbers.
    """

    def __init__(self, path: Path, file: h5py.File):
        self.path, self.file = path, file
        self.attributes, self.notes = attributes.read_attributes(file)
        self.ours = "format_version" in self.attributes
        self.guessed: set[str] = set()

    def error(self, what: str) -> EpisodeError:
        return EpisodeError(f"{self.path}: {what}")

    def unfit(self, what: str, reason: str) -> UnfitError:
        return UnfitError(f"{self.path}: {what}", reason)

    def array(self, name: str, shape: tuple, optional: bool = False, kind: str = "f") -> Any:
        """A dataset, checked, as float32 or (kind "b") bool; a word in `shape` stands for any length."""
        dataset = find(self.file, name)
        if dataset is None and optional:
            return None
        if not isinstance(dataset, h5py.Dataset):
            raise self.error(f"dataset {name} is missing{self._instead()}")
        if dataset.dtype.kind not in (kind if self.ours else "fiub"):
            wanted = "bool" if kind == "b" else "floating point" if self.ours else "numbers"
            raise self.unfit(f"{name} has dtype {dataset.dtype}; it must be {wanted}", f"has dtype {dataset.dtype}")
        given = tuple(dataset.shape or ())
        fits = [n == m for n, m in zip(shape, given, strict=False) if isinstance(n, int)]
        if len(given) != len(shape) or not all(fits):
            wanted = f"({', '.join(map(str, shape))})" + (", as qpos has it" if fits else "")
            raise self.unfit(f"{name} has shape {given}; it must be {wanted}", "has a shape that does not go with qpos")
        if 0 in given:
            raise self.unfit(f"{name} is empty, of shape {given}; an episode has at least one step", "is empty")
        check_size(self.file, name, dataset)
        with failures_named(self.path, f"{name} is damaged"):
            if "b" in (kind, dataset.dtype.kind):
                array = dataset[()].astype(np.float32 if kind == "f" else bool)
            else:
                array = dataset.astype(np.float32)[()]
        self._check_values(name, array)
        return array

    def _check_values(self, name: str, array: np.ndarray) -> None:
        if not np.isfinite(array).all():
            step = np.argwhere(~np.isfinite(array))[0][0]
            what = "has NaN or infinite values"
            raise self.unfit(f"{name} {what}, first at step {step}; leave this file out", what)
        bound = largest(name.rpartition("/")[2], self.in_rad)
        if (beyond := np.abs(array) > bound).any():
            step, *column = np.argwhere(beyond)[0]
            named = {"/observations/env_state": "an object", "/base_action": "the base"}
            who = named.get(name) or (self._column_name(name, array.shape[1], column[0]) if column else "a step")
            raise self.unfit(
                f"{name} has {array[step, *column]:g} for {who} at step {step}; it can be {bound:g} at most, "
                "either way; mend it or leave this file out",
                "has absurdly large values",
            )

    def optional_array(self, name: str, shape: tuple) -> np.ndarray | None:
        """An array that episodes need not have. Of other recorders it is left out, with a note, if it does not fit."""
        try:
            return self.array(name, shape, optional=True)
        except EpisodeError as error:
            if self.ours:
                raise
            reason = error.reason if isinstance(error, UnfitError) else "is damaged, or was written only in part"
            self.notes.append(f"{name.strip('/')} {reason}: left out")
            return None

    @cached_property
    def stored_robot(self) -> Robot | None:
        """The robot that the file describes; None if it describes none."""
        if (text := self.attributes.get("robot")) is None:
            return None
        try:
            return Robot.from_json(text)
        except ValueError as error:
            line = f"attribute robot is no robot: {str(error).removeprefix('robot: ')}"
            if self.ours:
                raise self.error(line) from error
            self.notes.append(f"{line}: left out")
            return None

    @property
    def in_rad(self) -> bool:
        """Whether the file says that its joints are in rad."""
        if self.stored_robot is not None:
            return self.stored_robot.in_rad
        return self.attributes.get("action_layout") == ACTION_LAYOUT

    def robot(self, qpos: np.ndarray, action: np.ndarray) -> Robot:
        """The robot of a file with these joint positions and actions, as far as it is known."""
        names = self._names("joint_names", qpos.shape[1], self._described_names(qpos.shape[1]))
        fps, layout = self.attributes.get("fps"), self.attributes.get("action_layout", ACTION_LAYOUT)
        if self.stored_robot is not None and self.stored_robot.joint_names == names:
            return self.stored_robot
        if not self.ours and "joint_names" not in self.attributes:
            self.guessed.add("robot")
            if is_aloha(qpos, action, fps):
                self.notes.append(
                    "joints have no names: taken as ALOHA's, whose limits they keep; --robot names others"
                )
                return replace(ALOHA, control_hz=float(fps or 50.0))
        robot = known_robot(names, float(fps or 50.0), layout)
        if self.ours or not robot.has_kinematics:
            return robot
        robot, note = with_units_of(robot, qpos)
        self.notes += [note] if note else []
        return robot

    def _described_names(self, joints: int) -> tuple[str, ...]:
        if self.stored_robot is not None:
            return self.stored_robot.joint_names
        if self.ours and joints == len(ALOHA.joint_names):
            return ALOHA.joint_names
        return tuple(f"joint_{i}" for i in range(joints))

    def semantics(self, qpos: np.ndarray, action: np.ndarray, robot: Robot) -> ActionSemantics:
        """What actions command: as the file says it, or as the numbers do."""
        if (told := self.attributes.get("action_semantics")) is not None or self.ours:
            return told or "absolute_joints"
        self.guessed.add("action_semantics")
        guess, why = guess_semantics(qpos, action, robot)
        if guess != "absolute_joints" or action.shape[1] != qpos.shape[1]:
            words = guess.replace("_", " ").replace("ee", "end effector")
            self.notes.append(f"actions are taken as {words}, since {why}; --action-semantics says otherwise")
        return guess

    def action_names(self, joint_names: tuple[str, ...], columns: int) -> tuple[str, ...]:
        """Names of an action's columns: those of the joints where it has as many, or more than these."""
        return self._names("action_names", columns, default_action_names(joint_names, columns))

    def _names(self, attribute: str, columns: int, default: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(self.attributes.get(attribute, default))
        if len(names) == columns:
            return names
        what = "joints" if attribute == "joint_names" else "columns of the action"
        if self.ours:
            raise self.error(f"attribute {attribute} has {len(names)} names for {columns} {what}")
        self.notes.append(f"attribute {attribute} has not as many names as there are {what}: left out")
        return default if len(default) == columns else tuple(f"{attribute[:-6]}_{i}" for i in range(columns))

    def _column_name(self, array: str, columns: int, column: int) -> str:
        """For errors."""
        given = self.attributes.get("action_names" if array.endswith("action") else "joint_names")
        return str(given[column]) if given and len(given) == columns else f"column {column}"

    def instructions(self, length: int) -> tuple[str, ...]:
        """Phrasings of what was told to do, under the first of the names that recorders use."""
        if (told := self.attributes.get("instruction")) is not None:
            return (told,) if isinstance(told, str) else tuple(told)
        groups = [each for each in (self.file, find(self.file, "/observations")) if isinstance(each, h5py.Group)]
        for name in INSTRUCTIONS:
            for group in groups:
                told = attributes.text_list(attributes.small_value(group, name))
                if len(set(told)) > 1 and len(told) == length:
                    self.notes.append(f"{name} changes within the episode: left out")
                elif told:
                    self.notes += [f"the instruction is read from {name}"] if name != "instruction" else []
                    return tuple(dict.fromkeys(told))
        return ()

    def members(self, group: str) -> list[str]:
        """Names of what lies in a group; [] where there is no such group."""
        found = self.file if group == "/" else find(self.file, group)
        return [str(name) for name in found] if isinstance(found, h5py.Group) else []

    def _instead(self) -> str:
        if self.ours:
            return ""
        found = [*self.members("/"), *(f"observations/{name}" for name in self.members("/observations"))]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return f"; the file has {', '.join(found[:8]) or 'nothing'}{more}"

    def note_unread(self) -> None:
        """Notes on what lies in the file and is not read."""
        for prefix, group in (("", "/"), ("observations/", "/observations")):
            self.notes += [f"{prefix}{name} is not read" for name in self.members(group) if name not in KNOWN]

    def note_cameras(self, names: Sequence[str], why: str) -> None:
        self.notes += [f"images/{name} {why}: left out" for name in names]
