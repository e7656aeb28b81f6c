"""The file of one demonstration: what ACT and ALOHA write, read and written streaming. The only place that opens HDF5.

    /                               sim, format_version, env_id, task, seed, fps, cameras, joint_names, action_layout,
                                    expert, success, success_published, max_reward, versions (attributes)
    /action                         (T, J) float32, commanded at t      rad; grippers 0 closed … 1 open
    /observations/qpos, qvel        (T, J) float32, seen at t           rad, rad/s
    /observations/env_state         (T, E) float32, object poses        ours, optional
    /observations/images/<camera>   (T, H, W, 3) uint8 RGB              a chunk a frame, gzip level 1
    /reward                         (T,) float32, earned by action t    ours, optional

The layout is that of https://github.com/tonyzhaozh/act, so plain h5py reads these files as it reads the originals.
The reader also takes the originals themselves, files of the real robots (`sim` False, four cameras, `effort`) and
the JPEG variant of https://github.com/MarkFzp/act-plus-plus (`compress` True, a frame is a padded row of bytes).
"""

import errno
import io
import json
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from PIL import Image

FORMAT_VERSION = 1
ACTION_LAYOUT = "absolute joint position targets [rad], grippers 0 closed .. 1 open"
ALOHA_JOINTS = tuple(
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
)


class EpisodeError(ValueError):
    """A data file or folder that cannot be used: one line that names it, what is wrong and what would work."""


@dataclass(frozen=True)
class EpisodeSpec:
    """What an episode contains; the same for all episodes of one dataset, and for a policy and its environment."""

    joint_names: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    """Camera → (height, width), in the order in which policies see them."""
    fps: float = 50.0
    env_id: str = ""
    task: str = ""
    env_state_dim: int = 0
    """Length of the object poses; 0 where there are none."""
    action_layout: str = ACTION_LAYOUT

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        cameras = {name: list(size) for name, size in self.cameras.items()}
        return asdict(self) | {"joint_names": list(self.joint_names), "cameras": cameras}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EpisodeSpec":
        """The inverse of `to_dict`."""
        cameras = {name: (int(height), int(width)) for name, (height, width) in values["cameras"].items()}
        return cls(**{**values, "joint_names": tuple(values["joint_names"]), "cameras": cameras})

    def differences(self, other: "EpisodeSpec") -> list[str]:
        """Where the two disagree, such as "camera top is 120x160 here, 480x640 there"; empty if nowhere."""
        found = []
        if list(self.cameras) != list(other.cameras):
            found.append(f"cameras are {_names(self.cameras)} here, {_names(other.cameras)} there")
        for name in self.cameras.keys() & other.cameras.keys():
            (h, w), (other_h, other_w) = self.cameras[name], other.cameras[name]
            if (h, w) != (other_h, other_w):
                found.append(f"camera {name} is {h}x{w} here, {other_h}x{other_w} there")
        if self.joint_names != other.joint_names:
            found.append(f"joints are {_names(self.joint_names)} here, {_names(other.joint_names)} there")
        for field in ("fps", "env_id", "task", "env_state_dim", "action_layout"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs:
                found.append(f"{field} is {mine!r} here, {theirs!r} there")
        return found


class EpisodeWriter:
    """Writes one episode step by step; the file appears under its name only when it is whole.

    Frames go to a hidden partial file as they come, the small arrays are kept until `close`, which renames the
    partial file to `path` in one step. Leaving the context without `close` removes everything.

    Args:
        path: the file to be, such as `data/transfer_cube/episode_3.hdf5`. Must not exist yet.
        spec: what every step will contain.
        seed: the seed that tells this episode's whole story.
        expert: who acted.
        attributes: more root attributes (text, numbers, booleans), such as the noise level.

    Raises:
        EpisodeError: the file exists, a step does not fit the spec, or writing fails (no space left, say).
    """

    def __init__(
        self,
        path: str | Path,
        spec: EpisodeSpec,
        *,
        seed: int,
        expert: str,
        attributes: Mapping[str, Any] | None = None,
    ):
        self.path, self.spec = Path(path), spec
        self._partial = self.path.with_name(f".{self.path.name}.part")
        self._steps: dict[str, list[np.ndarray]] = {name: [] for name in ("qpos", "qvel", "action", "reward")}
        if spec.env_state_dim:
            self._steps["env_state"] = []
        self._file: h5py.File | None = None
        if self.path.exists():
            raise EpisodeError(f"{self.path}: exists already; remove it or choose another name")
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = file = h5py.File(self._partial, "w")
            images = file.create_group("observations/images")
            for name, (height, width) in spec.cameras.items():
                frame = (height, width, 3)
                images.create_dataset(
                    name, (0, *frame), "u1", maxshape=(None, *frame), chunks=(1, *frame), compression=1
                )
            file.attrs.update(
                attributes or {},
                sim=True,
                format_version=FORMAT_VERSION,
                env_id=spec.env_id,
                task=spec.task,
                fps=spec.fps,
                cameras=np.array(list(spec.cameras), h5py.string_dtype()),
                joint_names=np.array(spec.joint_names, h5py.string_dtype()),
                action_layout=spec.action_layout,
                seed=seed,
                expert=expert,
                versions=json.dumps(_versions()),
            )

    def __len__(self) -> int:
        return len(self._steps["action"])

    def append(self, observation: Mapping[str, np.ndarray], action: np.ndarray, reward: float) -> None:
        """One step: what was seen (qpos, qvel, env_state, images/<camera>), the action then commanded, its reward."""
        assert self._file is not None, "append after close"
        t, joints = len(self), len(self.spec.joint_names)
        values = {**observation, "action": action, "reward": reward}
        with self._writing():
            for name, steps in self._steps.items():
                shape = {"env_state": (self.spec.env_state_dim,), "reward": ()}.get(name, (joints,))
                value = np.array(values[name], np.float32)
                if value.shape != shape or not np.isfinite(value).all():
                    raise EpisodeError(f"{self.path}: step {t}: {name} must be {shape} finite numbers; got {value}")
                steps.append(value)
            for name, (height, width) in self.spec.cameras.items():
                frame, shape = values[f"images/{name}"], (height, width, 3)
                if frame.shape != shape or frame.dtype != np.uint8:
                    given = f"{frame.shape} {frame.dtype}"
                    raise EpisodeError(f"{self.path}: step {t}: frame of {name} must be {shape} uint8; got {given}")
                images = self._file[f"observations/images/{name}"]
                images.resize(t + 1, axis=0)
                # Past HDF5's chunk cache: a full disk shows at this frame, not at some later flush.
                images.id.write_direct_chunk((t, 0, 0, 0), zlib.compress(frame.tobytes(), 1))

    def close(self, success: bool, success_published: bool) -> Path:
        """Completes the file and gives it its name. Returns its path."""
        assert self._file is not None, "closed twice"
        if not len(self):
            self.abort()
            raise EpisodeError(f"{self.path}: has no steps; append at least one before close")
        with self._writing():
            file, arrays = self._file, {name: np.stack(steps) for name, steps in self._steps.items()}
            for name, array in arrays.items():
                file[name if name in ("action", "reward") else f"observations/{name}"] = array
            file.attrs.update(
                success=success, success_published=success_published, max_reward=float(arrays["reward"].max())
            )
            file.close()
            _sync(self._partial)
            os.replace(self._partial, self.path)
            self._file = None
            _sync(self.path.parent)
        return self.path

    def abort(self) -> None:
        """Gives the episode up and removes what was written of it."""
        if self._file is not None:
            self._partial.unlink(missing_ok=True)
            with suppress(OSError, RuntimeError):  # what cannot be flushed is not wanted any more
                self._file.close()
            self._file = None

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, *_) -> None:
        self.abort()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abort()
            full = error.errno == errno.ENOSPC or "No space left" in str(error)
            reason = "no space left on the device" if full else error.strerror or str(error)
            raise EpisodeError(
                f"{self.path}: cannot be written: {reason}; nothing was kept of this episode, all others are whole"
            ) from error


class Episode:
    """One episode, checked as it is opened; the small arrays are in memory, frames are read on demand.

    It can be pickled and sent to other processes: the file is opened again where frames are first read.

    Attributes:
        path: the file.
        spec: what it contains; for files without our attributes made from shapes, cameras in alphabetical order.
        length: T, the number of steps.
        sim: False for real-robot files.
        action_offset: targets for the observation at t start at max(0, t + action_offset): 0 in simulation, -1 on
            real robots, where the original pairs each action with the observation one step later.
        qpos, qvel, action: (T, J) float32.
        env_state, reward, effort: (T, E), (T,), (T, J) float32, or None.
        seed, expert, success, success_published: None where the file does not tell.
        attributes: all root attributes as plain types.

    Raises:
        EpisodeError: names the file, the dataset, what is wrong, and what would work.
    """

    _open: ClassVar[OrderedDict[int, "Episode"]] = OrderedDict()
    _max_open = 128  # a process may hold 1024 files on many systems; a dataset may have more

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: h5py.File | None = None
        with self._reading(), h5py.File(self.path, "r") as file:
            self.attributes = {name: _plain(value) for name, value in file.attrs.items()}
            version = self.attributes.get("format_version", FORMAT_VERSION)
            if version > FORMAT_VERSION:
                raise self._error(f"has format version {version}; this toolkit reads up to {FORMAT_VERSION}")
            get = self.attributes.get
            self.sim = bool(get("sim", False))  # the original's rule for files without it
            self.action_offset = 0 if self.sim else -1
            self.seed: int | None = get("seed")
            self.expert: str | None = get("expert")
            self.success: bool | None = get("success")
            self.success_published: bool | None = get("success_published")

            qpos = self._array(file, "observations/qpos", (None, None))
            self.length, joints = qpos.shape
            self.qpos = qpos
            self.qvel = self._array(file, "observations/qvel", qpos.shape)
            self.action = self._array(file, "action", qpos.shape)
            self.effort = self._array(file, "observations/effort", qpos.shape, optional=True)
            self.env_state = self._array(file, "observations/env_state", (self.length, None), optional=True)
            self.reward = self._array(file, "reward", (self.length,), optional=True)
            names = tuple(f"joint_{i}" for i in range(joints)) if joints != len(ALOHA_JOINTS) else ALOHA_JOINTS
            names = tuple(get("joint_names", names))
            if len(names) != joints:
                raise self._error(f"/observations/qpos has {joints} joints, joint_names has {len(names)} names")
            self.spec = EpisodeSpec(
                joint_names=names,
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
            raise self._error(f"has no camera {camera}; it has {_names(self.spec.cameras)}")
        with self._reading(f"/observations/images/{camera}"):
            stored = self._opened()[f"observations/images/{camera}"][start:stop]
        if stored.ndim == 4:
            return stored
        frames = [self._decode(camera, start + i, row) for i, row in enumerate(stored)]
        return np.stack(frames)

    def close(self) -> None:
        """Lets go of the file; the next frame that is asked for opens it again."""
        Episode._open.pop(id(self), None)
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Episode":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}

    def _opened(self) -> h5py.File:
        if self._file is None:
            while len(Episode._open) >= Episode._max_open:
                next(iter(Episode._open.values())).close()
            # No chunk cache: a frame is a chunk and is hardly asked for twice, a cache a camera would fill the memory.
            self._file = h5py.File(self.path, "r", rdcc_nbytes=0)
        Episode._open[id(self)] = self
        Episode._open.move_to_end(id(self))
        return self._file

    def _cameras(self, file: h5py.File) -> dict[str, tuple[int, int]]:
        images = file.get("observations/images", {})
        # Depth images of some robots lie beside the colour images; policies take RGB alone.
        names = self.attributes.get("cameras", [name for name in images if not name.endswith("_depth")])
        cameras = {}
        for name in names:
            dataset = self._dataset(file, f"observations/images/{name}")
            if dataset.dtype != np.uint8:
                raise self._error(f"{dataset.name} has dtype {dataset.dtype}; frames must be uint8")
            jpeg = bool(self.attributes.get("compress", False))
            expected = "(T, bytes of a JPEG)" if jpeg else "(T, height, width, 3)"
            if dataset.ndim != (2 if jpeg else 4) or (not jpeg and dataset.shape[3] != 3):
                raise self._error(f"{dataset.name} has shape {dataset.shape}; expected {expected}")
            if len(dataset) != self.length:
                raise self._error(f"{dataset.name} has {len(dataset)} frames for {self.length} steps of qpos")
            cameras[name] = self._decode(name, 0, dataset[0]).shape[:2] if jpeg else dataset.shape[1:3]
        return cameras

    def _array(self, file: h5py.File, name: str, shape: tuple, optional: bool = False) -> Any:
        """A dataset as float32, checked; None in `shape` stands for any length."""
        if optional and name not in file:
            return None
        dataset = self._dataset(file, name)
        if dataset.dtype.kind != "f":
            raise self._error(f"{dataset.name} has dtype {dataset.dtype}; expected floating point numbers")
        if dataset.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, dataset.shape, strict=True)):
            expected = str(shape).replace("None", "any")
            raise self._error(f"{dataset.name} has shape {dataset.shape}; expected {expected}")
        if not len(dataset):
            raise self._error(f"{dataset.name} has no steps; an episode has at least one")
        array = dataset.astype(np.float32)[()]
        if not np.isfinite(array).all():
            step = np.argwhere(~np.isfinite(array))[0][0]
            raise self._error(f"{dataset.name} has NaN or infinite values, first at step {step}; leave this file out")
        return array

    def _dataset(self, file: h5py.File, name: str) -> h5py.Dataset:
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise self._error(f"dataset /{name} is missing")
        return dataset

    def _decode(self, camera: str, t: int, row: np.ndarray) -> np.ndarray:
        """(W,) JPEG bytes with padding → (H, W, 3)."""
        try:
            with Image.open(io.BytesIO(row.tobytes())) as image:
                # The originals hand RGB to OpenCV, which takes it for BGR, and read it back in the same way.
                return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        except OSError as error:
            raise self._error(f"/observations/images/{camera}: frame {t} is no JPEG image") from error

    def _error(self, what: str) -> EpisodeError:
        return EpisodeError(f"{self.path}: {what}")

    @contextmanager
    def _reading(self, dataset: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise self._error("no such file") from error
        except OSError as error:
            what = f"{dataset} is damaged" if dataset else "is no whole HDF5 file"
            raise self._error(f"{what}; record or copy it again") from error


def find_episodes(folder: str | Path) -> list[Path]:
    """The files episode_0.hdf5, episode_1.hdf5, … of a folder by number. EpisodeError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such folder; record demonstrations into it with scripts/record.py")
    numbers = {path: re.fullmatch(r"episode_(\d+)\.hdf5", path.name) for path in folder.iterdir()}
    episodes = sorted((int(match[1]), path) for path, match in numbers.items() if match)
    if not episodes:
        raise EpisodeError(f"{folder}: no episodes in it; expected files episode_0.hdf5, episode_1.hdf5, …")
    return [path for _, path in episodes]


def check_dataset(paths: Sequence[str | Path]) -> EpisodeSpec:
    """Opens and checks all episodes of a dataset. Returns the spec they share; EpisodeError if one differs."""
    first, *others = paths
    spec = Episode(first).spec
    for path in others:
        if differences := Episode(path).spec.differences(spec):
            raise EpisodeError(f"{path} does not go with {first}: {'; '.join(differences)}")
    return spec


def remove_partials(folder: str | Path) -> int:
    """Removes what killed writers left in a folder. Returns how many files that were. Not while anyone writes there."""
    partials = list(Path(folder).glob(".*.hdf5.part"))
    for partial in partials:
        partial.unlink()
    return len(partials)


def _names(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"


def _plain(value: Any) -> Any:
    """An attribute as h5py gives it → str, int, float, bool or a list of them."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _sync(path: Path) -> None:
    """Waits until the file, or the folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("bimanual-act", "mujoco", "gymnasium", "numpy", "h5py"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
