"""The file of one demonstration, as ACT and ALOHA lay it out: checked when opened. `demos.writer` writes it.

    /                               attributes: sim, and ours: format_version, env_id, task, fps, cameras, joint_names,
                                    action_layout, seed, expert, success, success_published, max_reward, versions;
                                    of recordings also noise, first_seed, operator, traits, scene, code;
                                    instruction, what was told to do, in one or several phrasings; way, which of the
                                    task's ways it went
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
four cameras, `effort`) and the JPEG variant of https://github.com/MarkFzp/act-plus-plus (`compress` True; a frame is a
row of bytes with zeros behind). What an attribute must be stands in `demos.attribute`, what is not followed and not
read at all in `demos.storage`. No other module than these opens HDF5.
"""

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from demos import attribute
from demos.spec import ACTION_LAYOUT, ALOHA_JOINTS, FORMAT_VERSION, EpisodeError, EpisodeSpec, largest
from demos.storage import check_size, find, refuse_special

NOT_WHOLE = "is not a whole HDF5 file"


class Episode:
    """One episode, checked as it is opened: small arrays are in memory, frames are read when asked for.

    It holds no open file, so that it can be pickled, forked and had by the thousand. `with episode:` keeps the file
    open while many frames are read, which saves some 0.2 ms a frame.

    Attributes:
        path: the file.
        spec: what it contains. Of files without our attributes: from the shapes, cameras in alphabetical order.
        length: T, the number of steps.
        sim: False for real robots.
        action_offset: targets for the observation at t start at max(0, t + action_offset): 0 in simulation, -1 for
            real robots, whose files pair an action with the observation one step later.
        qpos, qvel, action: (T, J) float32, rad and rad/s; grippers 0 closed … 1 open.
        expert_action: (T, J) float32, what the expert intended, or None: the same as `action`.
        env_state, reward, effort: (T, E), (T,), (T, J) float32, or None.
        human: (T,) bool, or None: no person took part.
        seed, expert, success, success_published: None where the file does not tell.
        instructions: phrasings of what was told to do; empty where the file does not tell.
        attributes: all root attributes, as plain types.

    Raises:
        EpisodeError: names file, dataset, what is wrong and what would work.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        with self._reading() as file:
            self.attributes: dict[str, Any] = attribute.read(file)
            get = self.attributes.get
            version = get("format_version", FORMAT_VERSION)
            if version > FORMAT_VERSION:
                raise self._error(f"has format version {version}; this toolkit reads up to version {FORMAT_VERSION}")
            self.sim = bool(get("sim", False))  # the rule of the originals for files without it
            self.action_offset = 0 if self.sim else -1
            self.seed: int | None = get("seed")
            self.expert: str | None = get("expert")
            self.success: bool | None = get("success")
            self.success_published: bool | None = get("success_published")
            told = get("instruction", [])
            self.instructions: tuple[str, ...] = (told,) if isinstance(told, str) else tuple(told)

            self.qpos: np.ndarray = self._array(file, "/observations/qpos", ("steps", "joints"))
            self.length, joints = self.qpos.shape
            self.qvel: np.ndarray = self._array(file, "/observations/qvel", self.qpos.shape)
            self.action: np.ndarray = self._array(file, "/action", self.qpos.shape)
            self.expert_action = self._array(file, "/expert_action", self.qpos.shape, optional=True)
            self.effort = self._array(file, "/observations/effort", self.qpos.shape, optional=True)
            self.env_state = self._array(file, "/observations/env_state", (self.length, "any"), optional=True)
            self.reward = self._array(file, "/reward", (self.length,), optional=True)
            self.human = self._array(file, "/human", (self.length,), optional=True, kind="b")
            self.spec = EpisodeSpec(
                joint_names=self._joint_names(joints),
                cameras=self._cameras(file),
                fps=get("fps", 50.0),
                env_id=get("env_id", ""),
                task=get("task", ""),
                env_state_dim=0 if self.env_state is None else self.env_state.shape[1],
                action_layout=get("action_layout", ACTION_LAYOUT),
            )

    def frame(self, camera: str, t: int) -> np.ndarray:
        """One frame, (H, W, 3) uint8 RGB."""
        return self.frames(camera, t, t + 1)[0]

    def frames(self, camera: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames start … stop - 1, (n, H, W, 3) uint8 RGB."""
        if camera not in self.spec.cameras:
            raise self._error(f"has no camera {camera}; it has {', '.join(self.spec.cameras) or 'none'}")
        name = f"/observations/images/{camera}"
        with self._reading(f"{name} is damaged") as file:
            images = self._dataset(file, name)
            filters = images.compression, images.shuffle, images.fletcher32
            if images.chunks != (1, *images.shape[1:]) or filters != ("gzip", False, False):
                stored = images[start:stop]
                if images.ndim == 4:
                    return stored
                return np.stack([self._decode(name, start + i, row) for i, row in enumerate(stored)])
            # HDF5 lets only one thread in at a time; what it hands out as it is, many can unpack.
            steps = range(*slice(start, stop).indices(len(images)))
            chunks = [images.id.read_direct_chunk((t, 0, 0, 0)) for t in steps]
            frames = np.empty((len(chunks), *images.shape[1:]), np.uint8)
            for i, (unpacked, chunk) in enumerate(chunks):
                pixels = np.frombuffer(chunk if unpacked else zlib.decompress(chunk), np.uint8)
                if pixels.size != frames[i].size:
                    raise zlib.error("a frame of another size")
                frames[i] = pixels.reshape(frames[i].shape)
        return frames

    def __enter__(self) -> "Episode":
        with self._failures_named():
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
        with self._failures_named(failure), nullcontext(self._file) if self._file else self._open() as file:
            yield file

    @contextmanager
    def _failures_named(self, failure: str = NOT_WHOLE) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise self._error("no such file") from error
        except (OSError, RuntimeError, KeyError, zlib.error) as error:
            raise self._error(f"{failure}; copy or record it again, or leave it out") from error

    def _error(self, what: str) -> EpisodeError:
        return EpisodeError(f"{self.path}: {what}")

    def _dataset(self, file: h5py.File, name: str) -> h5py.Dataset:
        dataset = find(file, name)
        if not isinstance(dataset, h5py.Dataset):
            raise self._error(f"dataset {name} is missing")
        return dataset

    def _array(self, file: h5py.File, name: str, shape: tuple, optional: bool = False, kind: str = "f") -> Any:
        """A dataset, checked, as float32 or (kind "b") bool; a word in `shape` stands for any length."""
        dataset = find(file, name)
        if dataset is None and optional:
            return None
        if not isinstance(dataset, h5py.Dataset):
            raise self._error(f"dataset {name} is missing")
        if dataset.dtype.kind != kind:
            wanted = "floating point" if kind == "f" else "bool"
            raise self._error(f"{name} has dtype {dataset.dtype}; it must be {wanted}")
        given = tuple(dataset.shape or ())
        fits = [n == m for n, m in zip(shape, given, strict=False) if isinstance(n, int)]
        if len(given) != len(shape) or not all(fits):
            wanted = f"({', '.join(map(str, shape))})" + (", as qpos has it" if fits else "")
            raise self._error(f"{name} has shape {given}; it must be {wanted}")
        if 0 in given:
            raise self._error(f"{name} is empty, of shape {given}; an episode has at least one step")
        check_size(file, name, dataset)
        with self._failures_named(f"{name} is damaged"):
            array = dataset.astype(np.float32 if kind == "f" else bool)[()]
        if not np.isfinite(array).all():
            step = np.argwhere(~np.isfinite(array))[0][0]
            raise self._error(f"{name} has NaN or infinite values, first at step {step}; leave this file out")
        bound = largest(name.rpartition("/")[2], self.attributes.get("action_layout"))
        if (beyond := np.abs(array) > bound).any():
            step, *column = np.argwhere(beyond)[0]
            who = self._joint_names(array.shape[1])[column[0]] if column and "env_state" not in name else "an object"
            raise self._error(
                f"{name} has {array[step, *column]:g} for {who} at step {step}; it can be {bound:g} at most, "
                "either way; mend it or leave this file out"
            )
        return array

    def _joint_names(self, joints: int) -> tuple[str, ...]:
        default = ALOHA_JOINTS if joints == len(ALOHA_JOINTS) else [f"joint_{i}" for i in range(joints)]
        names = tuple(self.attributes.get("joint_names", default))
        if len(names) != joints:
            raise self._error(f"attribute joint_names has {len(names)} names for {joints} joints")
        return names

    def _cameras(self, file: h5py.File) -> dict[str, tuple[int, int]]:
        """Camera → (height, width), each checked by its header alone, so that opening stays fast."""
        jpeg = bool(self.attributes.get("compress", False))
        group = find(file, "/observations/images")
        stored = [str(name) for name in group] if isinstance(group, h5py.Group) else []
        # Some robots keep depth images beside the colour images, under such names.
        colour = [name for name in stored if not name.endswith("_depth")]
        cameras: dict[str, tuple[int, int]] = {}
        for camera in self.attributes.get("cameras", colour):
            name = f"/observations/images/{camera}"
            if camera not in stored:
                known = ", ".join(stored) or "none"
                raise self._error(f"attribute cameras names {camera}, but {name} is missing; the cameras are: {known}")
            images = self._dataset(file, name)
            if images.dtype != np.uint8:
                raise self._error(f"{name} has dtype {images.dtype}; frames must be uint8")
            shape = tuple(images.shape or ())
            if len(shape) != (2 if jpeg else 4) or (not jpeg and shape[3:] != (3,)) or 0 in shape[1:]:
                wanted = "(T, bytes of a JPEG image)" if jpeg else "(T, height, width, 3)"
                raise self._error(f"{name} has shape {shape}; it must be {wanted}")
            check_size(file, name, images, frames=True)
            if len(images) != self.length:
                raise self._error(f"{name} has {len(images)} frames; this file's qpos has {self.length} steps")
            cameras[camera] = self._decode(name, 0, images[0]).shape[:2] if jpeg else images.shape[1:3]
        return cameras

    def _decode(self, name: str, t: int, row: np.ndarray) -> np.ndarray:
        """(W,) bytes of a JPEG image and padding → (H, W, 3) uint8 RGB."""
        try:
            with Image.open(io.BytesIO(row.tobytes())) as image:
                # The originals hand RGB to OpenCV, which takes it for BGR, when they write and again when they read.
                return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self._error(f"{name}: frame {t} is not a JPEG image") from error


def episode_number(path: Path) -> int:
    """The number in the name of an episode's file, episode_<number>.hdf5; -1 for other names."""
    match = re.fullmatch(r"episode_(\d+)\.hdf5", path.name, re.ASCII)
    return int(match[1]) if match else -1


def find_episodes(folder: str | Path) -> list[Path]:
    """The files episode_0.hdf5, episode_1.hdf5, … of a folder, by number. EpisodeError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such folder; scripts/record.py records demonstrations into one")
    numbered = sorted((number, path) for path in folder.iterdir() if (number := episode_number(path)) >= 0)
    if not numbered:
        raise EpisodeError(f"{folder}: no episodes in it; their files are named episode_0.hdf5, episode_1.hdf5, …")
    for _, path in numbered:
        refuse_special(path)
    return [path for _, path in numbered]


def check_dataset(paths: Sequence[str | Path], several_tasks: bool = False) -> EpisodeSpec:
    """Opens and checks every episode. Returns the spec they share; EpisodeError names the first that differs.

    Args:
        several_tasks: they may be of several tasks, with other objects in each. The spec then names all of these
            tasks, and no object poses.
    """
    first, *others = paths
    spec = Episode(first).spec
    env_ids = {spec.env_id: None}
    for path in others:
        other = Episode(path).spec
        if several_tasks:
            env_ids[other.env_id] = None
            other = replace(other, env_id=spec.env_id, task=spec.task, env_state_dim=spec.env_state_dim)
        if differences := other.differences(spec):
            raise EpisodeError(f"{path} does not go with {first}: {'; '.join(differences)}")
    return spec if len(env_ids) == 1 else replace(spec, env_id=" ".join(env_ids), task="", env_state_dim=0)
