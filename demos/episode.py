"""The file of one demonstration, as ACT and ALOHA lay it out: checked when opened. `demos.writer` writes it.

    /                               attributes: sim, and ours: format_version, env_id, task, fps, cameras, joint_names,
                                    action_layout, seed, expert, success, success_published, max_reward, versions;
                                    of recordings also noise, first_seed, operator, traits, scene, code;
                                    instruction, what was told to do, in one or several phrasings; variant, which
                                    variant of the task it shows (`way` in older files)
    /action                         (T, J) float32, commanded at t      rad; grippers 0 closed … 1 open
    /observations/qpos, qvel        (T, J) float32, seen at t           rad, rad/s
    /observations/env_state         (T, E) float32, object poses        ours, optional
    /observations/images/<camera>   (T, H, W, 3) uint8 RGB              one chunk a frame, gzip
    /reward                         (T,) float32, earned by action t    ours, optional
    /expert_action                  (T, J) float32, intended at t       ours, where it differs from what was commanded
    /human                          (T,) bool, a person acted at t      ours, where a person did in some steps

A flipped bit is noticed. Frames end in zlib's Adler-32, the other arrays are one chunk each with HDF5's Fletcher-32,
and attributes, shapes and whatever else leads to them lie in the layout of HDF5 1.10 (2016), which has a checksum for
each. Plain h5py reads these files as it reads those of https://github.com/tonyzhaozh/act; text attributes it gives as
bytes, since text of any length, which it gives as str, would lie where no checksum reaches.

The reader also takes files without checksums: our format version 1, the originals, files of real robots (`sim` False,
four cameras, `effort`), of mobile ALOHA (`base_action`, the last two of 16 actions there, beside them), and the JPEG
variant of https://github.com/MarkFzp/act-plus-plus. Files that name our format_version must be as above. In all others
- `qvel` may be missing; it, `effort`, `reward` and `env_state` are left out where they do not fit or have NaN;
- numbers may be of any width and byte order, whole ones too; attributes may be text or scalar datasets;
- frames may be JPEG or PNG images in any of the layouts of `demos.frames`; an attribute jpeg_colors, "rgb" or "bgr",
  tells which colours they were encoded with; what holds no colour pictures is no camera;
- `language_raw`, `language_instruction` or `instructions`, datasets or attributes of / or /observations, are read as
  `instruction` where there is none;
- whatever else lies there is not read.
`Episode.notes` says what was assumed and left out, `demos.notes` puts that together for many episodes. What an
attribute must be stands in `demos.attributes`, what is not followed and not read at all in `demos.hdf5_checks`. No
other modules than these open HDF5.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from demos.file_reader import FileReader
from demos.folders import NoEpisodesError as NoEpisodesError
from demos.folders import episode_number as episode_number
from demos.folders import find_all_episodes as find_all_episodes
from demos.folders import find_episodes as find_episodes
from demos.frames import camera_sizes, read_encoded
from demos.hdf5_checks import NOT_WHOLE, failures_named, find, refuse_special
from demos.robot import Robot
from demos.spec import (
    FORMAT_VERSION,
    ActionSemantics,
    EpisodeError,
    EpisodeSpec,
    JpegColors,
    default_action_names,
)

STORED_NAMES = {"way": "variant"}  # root attributes, old → new
FPS_TOLERANCE = 0.02  # of clocks that measure the same rate


class Episode:
    """One episode, checked as it is opened: small arrays are in memory, frames are read when asked for.

    It holds no open file, so that it can be pickled, forked and had by the thousand. `with episode:` keeps the file
    open while many frames are read, which saves some 0.2 ms a frame.

    Attributes:
        path: the file.
        ours: the file names its format_version: a recorder of this toolkit wrote it, and the rules are strict.
        spec: what it contains. Of files without our attributes: from the shapes, cameras in alphabetical order.
        length: T, the number of steps.
        sim: False for real robots.
        action_offset: targets for the observation at t start at max(0, t + action_offset): 0 in simulation, -1 for
            real robots, whose files pair an action with the observation one step later.
        qpos, action: (T, J) float32, rad; grippers 0 closed … 1 open.
        qvel: (T, J) float32, rad/s, or None: nothing learns from it, and other recorders may leave it out.
        expert_action: (T, J) float32, what the expert intended, or None: the same as `action`.
        env_state, reward, effort: (T, E), (T,), (T, J) float32, or None.
        base_action: (T, B) float32, commands for a mobile base, or None; nothing learns from them.
        human: (T,) bool, or None: no person took part.
        seed, expert, success, success_published: None where the file does not tell.
        instructions: phrasings of what was told to do; empty where the file does not tell.
        attributes: all root attributes, as plain types.
        notes: sentences about what was assumed or left out, the same for all files of which it is true.
        guessed: the fields of `spec` (robot, action_semantics) that the numbers suggest, since the file does not say.

    Args:
        path: the file.
        cameras: those that will be looked at. Others are left out of the spec, with a note, where they cannot be used;
            with None each must be usable. In files of this toolkit all must be.
        jpeg_colors: the order of the colours in JPEG and PNG images: bgr as OpenCV encodes RGB without a conversion,
            rgb true colours; auto is the file's attribute jpeg_colors, else bgr, as the originals write.
        robot, action_semantics: in place of what the file says, or of what its numbers suggest.

    Raises:
        EpisodeError: names file, dataset, what is wrong and what would work.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        cameras: Sequence[str] | None = None,
        jpeg_colors: JpegColors = "auto",
        robot: Robot | None = None,
        action_semantics: ActionSemantics | None = None,
    ):
        self.path = Path(path)
        self._file: h5py.File | None = None
        with self._reading() as file:
            reader = FileReader(self.path, file)
            self.attributes: dict[str, Any] = {
                STORED_NAMES.get(name, name): value for name, value in reader.attributes.items()
            }
            self.ours, get = reader.ours, self.attributes.get
            version = get("format_version", FORMAT_VERSION)
            if version > FORMAT_VERSION:
                raise self._error(f"has format version {version}; this toolkit reads up to version {FORMAT_VERSION}")
            self.sim = bool(get("sim", False))  # the rule of the originals for files without it
            self.action_offset = 0 if self.sim else -1
            self.seed: int | None = get("seed")
            self.expert: str | None = get("expert")
            self.success: bool | None = get("success")
            self.success_published: bool | None = get("success_published")

            self.qpos: np.ndarray = reader.array("/observations/qpos", ("steps", "joints"))
            self.length, joints = self.qpos.shape
            self.qvel: np.ndarray | None = reader.optional_array("/observations/qvel", self.qpos.shape)
            own = (len(get("action_names", range(joints))),) if self.ours else ("any",)
            self.action: np.ndarray = reader.array("/action", (self.length, *own))
            self.expert_action = reader.array("/expert_action", self.action.shape, optional=True)
            self.effort = reader.optional_array("/observations/effort", self.qpos.shape)
            self.env_state = reader.optional_array("/observations/env_state", (self.length, "any"))
            self.reward = reader.optional_array("/reward", (self.length,))
            self.human = reader.array("/human", (self.length,), optional=True, kind="b")
            self.base_action = None if self.ours else reader.optional_array("/base_action", (self.length, "any"))
            self.instructions = reader.instructions(self.length)
            self._exchanged = (get("jpeg_colors", "bgr") if jpeg_colors == "auto" else jpeg_colors) == "bgr"
            sizes, self._layouts = camera_sizes(reader, self.length, cameras)
            known = self._fitted(robot, get("fps")) if robot else reader.robot(self.qpos, self.action)
            semantics = action_semantics or reader.semantics(self.qpos, self.action, known)
            self.spec = EpisodeSpec(
                known,
                cameras=sizes,
                env_ids=tuple(get("env_id", "").split()),
                task=get("task", ""),
                env_state_dim=0 if self.env_state is None else self.env_state.shape[1],
                action_semantics=semantics,
                action_names=reader.action_names(known.joint_names, self.action.shape[1]),
            )
            if not self.ours:
                reader.notes += self._assumptions(jpeg_colors)
                reader.note_unread()
        self.notes: tuple[str, ...] = tuple(dict.fromkeys(reader.notes))
        self.guessed = frozenset(reader.guessed)

    def _fitted(self, robot: Robot, fps: float | None) -> Robot:
        """A robot that was given from outside, at the rate that the file says."""
        names, joints = self.attributes.get("joint_names"), self.qpos.shape[1]
        if len(robot.joint_names) != joints:
            raise self._error(f"has {joints} joints; the given robot has {len(robot.joint_names)}")
        if names and sorted(names) == sorted(robot.joint_names):
            robot = robot.reordered(names)
        return robot if fps is None else replace(robot, control_hz=float(fps))

    def _assumptions(self, jpeg_colors: JpegColors) -> Iterator[str]:
        """What a file of another recorder does not say."""
        if "sim" not in self.attributes:
            yield "sim is not in the file: taken as a real robot, where an action belongs to the observation before it"
        if "fps" not in self.attributes:
            yield "fps is not in the file: taken as 50"
        if self.qvel is None:
            yield "no qvel, which nothing learns from"
        if self.base_action is not None:
            yield f"base_action, {self.base_action.shape[1]} numbers a step, is not learnt from"
        if "encoded" in self._layouts.values() and jpeg_colors == "auto" and "jpeg_colors" not in self.attributes:
            yield (
                "the colour order of JPEG frames is not in the file: taken as BGR, as the original code writes it; "
                "use --jpeg-colors rgb if red and blue are exchanged in the pictures of inspect_data.py"
            )

    def frame(self, camera: str, t: int) -> np.ndarray:
        """One frame, (H, W, 3) uint8 RGB."""
        return self.frames(camera, t, t + 1)[0]

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start … stop - 1, (n, H, W, 3) uint8 RGB."""
        if camera not in self.spec.cameras:
            raise self._error(f"has no camera {camera}; it has {', '.join(self.spec.cameras) or 'none'}")
        name, layout = f"/observations/images/{camera}", self._layouts[camera]
        with self._reading(f"{name} is damaged") as file:
            images = find(file, name)
            if not isinstance(images, h5py.Dataset):
                raise self._error(f"dataset {name} is missing")
            steps = range(*slice(start, stop).indices(len(images)))
            if layout == "encoded":
                size = self.spec.cameras[camera]
                return read_encoded(images, steps, size, self._exchanged, f"{self.path}: {name}")
            filters = images.compression, images.shuffle, images.fletcher32
            if images.chunks != (1, *images.shape[1:]) or filters != ("gzip", False, False):
                stored = images[start:stop]
                return np.ascontiguousarray(np.moveaxis(stored, 1, 3)) if layout == "colours first" else stored
            # HDF5 lets only one thread in at a time; what it hands out as it is, many can unpack.
            chunks = [images.id.read_direct_chunk((t, 0, 0, 0)) for t in steps]
            frames = np.empty((len(chunks), *images.shape[1:]), np.uint8)
            for i, (unpacked, chunk) in enumerate(chunks):
                pixels = np.frombuffer(chunk if unpacked else zlib.decompress(chunk), np.uint8)
                if pixels.size != frames[i].size:
                    raise zlib.error("a frame of another size")
                frames[i] = pixels.reshape(frames[i].shape)
        return np.ascontiguousarray(np.moveaxis(frames, 1, 3)) if layout == "colours first" else frames

    def __enter__(self) -> "Episode":
        with failures_named(self.path):
            self._file = self._open()
        return self

    def __exit__(self, *_) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None

    def _open(self) -> h5py.File:
        refuse_special(self.path)
        return h5py.File(self.path, "r")

    @contextmanager
    def _reading(self, failure: str = NOT_WHOLE) -> Iterator[h5py.File]:
        with failures_named(self.path, failure), nullcontext(self._file) if self._file else self._open() as file:
            yield file

    def _error(self, what: str) -> EpisodeError:
        return EpisodeError(f"{self.path}: {what}")


def check_dataset(
    episodes: Sequence["str | Path | Episode"],
    several_tasks: bool = False,
    cameras: Sequence[str] | None = None,
    jpeg_colors: JpegColors = "auto",
    robot: Robot | None = None,
    action_semantics: ActionSemantics | None = None,
) -> EpisodeSpec:
    """Opens and checks every episode. Returns the spec they share; EpisodeError names the first that differs.

    Args:
        episodes: the episodes, or their files, at least one.
        several_tasks: they may be of several tasks, with other objects in each. The spec then names all of these
            tasks, and no object poses.
        cameras: those that will be looked at; of the others the spec has those that all episodes share. None: all of
            every episode must agree.
        jpeg_colors, robot, action_semantics: see `Episode`.

    Where one of two files is of another recorder, their `task` texts may differ, and their fps by 2 %. Where the
    numbers of a file say what its robot or its actions are, those of all files say it together.
    """
    given: Any = {"cameras": cameras, "jpeg_colors": jpeg_colors, "robot": robot, "action_semantics": action_semantics}
    opened = [
        _Opened(each.path, each.spec, each.ours, each.guessed)
        for each in (each if isinstance(each, Episode) else Episode(each, **given) for each in episodes)
    ]
    first, *others = _with_common_guesses(opened)
    spec, env_ids = first.spec, dict.fromkeys(first.spec.env_ids)
    if unknown := [name for name in cameras or () if name not in spec.cameras]:
        known = ", ".join(spec.cameras) or "none"
        raise EpisodeError(f"camera {unknown[0]} is not in {first.path.parent}; its cameras: {known}")
    for episode in others:
        other = episode.spec
        if several_tasks:
            env_ids |= dict.fromkeys(other.env_ids)
            other = replace(other, env_ids=spec.env_ids, task=spec.task, env_state_dim=spec.env_state_dim)
        if not (first.ours and episode.ours):
            fps = spec.fps if abs(other.fps - spec.fps) <= FPS_TOLERANCE * spec.fps else other.fps
            other = replace(other, task=spec.task, robot=replace(other.robot, control_hz=fps))
            if set(other.cameras) == set(spec.cameras):
                other = replace(other, cameras={name: other.cameras[name] for name in spec.cameras})
        shared = {name: size for name, size in spec.cameras.items() if other.cameras.get(name) == size}
        if cameras is not None:
            kept = {name: size for name, size in spec.cameras.items() if name in shared or name in cameras}
            spec = replace(spec, cameras=kept)
            other = replace(other, cameras={name: other.cameras[name] for name in kept if name in other.cameras})
        if differences := other.differences(spec):
            hint = ""
            if shared and cameras is None and other.cameras != spec.cameras:
                hint = f"; --cameras {' '.join(shared)} takes the cameras that both have"
            raise EpisodeError(f"{episode.path} does not go with {first.path}: {'; '.join(differences)}{hint}")
    return spec if len(env_ids) <= 1 else replace(spec, env_ids=tuple(env_ids), task="", env_state_dim=0)


class _Opened(NamedTuple):
    """What is compared of an episode."""

    path: Path
    spec: EpisodeSpec
    ours: bool
    guessed: frozenset[str]


def _with_common_guesses(opened: Sequence[_Opened]) -> list[_Opened]:
    """The same with one guess for all: what files say themselves, or else what the numbers of most files suggest."""
    found = list(opened)
    for field in ("robot", "action_semantics"):
        values = [getattr(each.spec, field) for each in found]
        values = [replace(value, control_hz=50.0) if isinstance(value, Robot) else value for value in values]
        told = [value for each, value in zip(found, values, strict=True) if field not in each.guessed]
        [(common, _)] = Counter(told or values).most_common(1)
        for i, each in enumerate(found):
            if field not in each.guessed or values[i] == common:
                continue
            if field == "robot" and len(common.joint_names) == len(each.spec.joint_names):
                names = default_action_names(common.joint_names, each.spec.action_dim)
                robot = replace(common, control_hz=each.spec.fps)
                found[i] = each._replace(spec=replace(each.spec, robot=robot, action_names=names))
            elif field == "action_semantics":
                found[i] = each._replace(spec=replace(each.spec, action_semantics=common))
    return found
