"""Writing an episode file step by step, in the layout that `demos.episode` describes. For any robot:

robot = Robot.from_joint_names(["shoulder", "elbow", "gripper"], control_hz=20)   # or read_robot("arm.xml")
spec = EpisodeSpec(robot, cameras={"front": (120, 160)}, task="put the cube into the box")
with EpisodeWriter("data/cube/episode_0.hdf5", spec) as writer:
    for observation, action in demonstration:
        writer.append({"qpos": observation.joints, "images/front": observation.frame}, action)
    writer.close(success=True)
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from demos.atomic_file import AtomicFile
from demos.attributes import write_attributes
from demos.spec import FORMAT_VERSION, EpisodeError, EpisodeSpec, largest

SEEN = ("qpos", "qvel", "env_state")
LIBVER = ("v110", "v110")  # of HDF5: the oldest layout in which whatever leads to the data has a checksum
GZIP_LEVEL = 1  # 400 frames of 480 × 640 of the transfer cube: 15 MB, 3 ms to write one; level 6: 10 MB, 6 ms


class EpisodeWriter:
    """Writes one episode step by step; it appears under its name only when it is whole.

    Frames go to a hidden partial file as they come, the small arrays follow in `close`, which renames the partial
    file to `path` in one step. Leaving the context in any other way removes everything.

    Args:
        path: the file to be, such as `data/transfer_cube/episode_3.hdf5`. Must not exist.
        spec: what every step will contain.
        seed: of the environment, if the episode can be repeated from it.
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
        seed: int | None = None,
        expert: str = "",
        attributes: Mapping[str, Any] | None = None,
    ):
        self.path = Path(path)
        if self.path.exists():
            raise EpisodeError(f"{self.path}: exists already; choose another name or remove it")
        joints = (len(spec.joint_names),)
        self._shapes = {"qpos": joints, "qvel": joints, "action": (spec.action_dim,), "reward": ()}
        if spec.env_state_dim:
            self._shapes["env_state"] = (spec.env_state_dim,)
        self._in_rad = spec.robot.in_rad
        self._steps: dict[str, list[np.ndarray]] = {name: [] for name in self._shapes}
        with _failures_named(self.path):
            self._disk = AtomicFile(self.path)
        self._file = h5py.File(self._disk, "w", libver=LIBVER)
        self._images = {
            name: self._file.create_dataset(
                f"observations/images/{name}",
                shape=(0, height, width, 3),
                maxshape=(None, height, width, 3),
                chunks=(1, height, width, 3),
                dtype=np.uint8,
                compression=GZIP_LEVEL,
            )
            for name, (height, width) in spec.cameras.items()
        }
        told = dict(
            sim=True,
            format_version=FORMAT_VERSION,
            env_id=spec.env_id,
            task=spec.task,
            fps=spec.fps,
            cameras=list(spec.cameras),
            joint_names=list(spec.joint_names),
            robot=spec.robot.to_json(),
            action_semantics=spec.action_semantics,
            action_names=list(spec.action_names),
            **({} if seed is None else {"seed": seed}),
            expert=expert,
            versions=json.dumps(versions()),
        )
        write_attributes(self._file, {**(attributes or {}), **told})

    def append(
        self,
        observation: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: float = 0.0,
        expert_action: np.ndarray | None = None,
        human: bool | None = None,
    ) -> None:
        """Adds an observation (qpos, env_state, images/<camera>), the action commanded after it, and its reward.

        All steps of an episode have these or none has: qvel; `expert_action`, what the expert intended where another
        action was commanded; `human`, whether a person acted, where a policy acted in other steps.
        """
        if not self._steps["action"] and "qvel" not in observation:
            self._shapes.pop("qvel", None), self._steps.pop("qvel", None)
        values, t = {**observation, "action": action, "reward": reward}, len(self._steps["action"])
        for name, value, shape in (("expert_action", expert_action, self._shapes["action"]), ("human", human, ())):
            if value is not None:
                values[name] = value
                if t == 0:
                    self._shapes[name], self._steps[name] = shape, []
        with self._writing():
            for name, shape in self._shapes.items():
                if name not in values:
                    raise EpisodeError(f"{self.path}: step {t}: {name} is missing; it must have shape {shape}")
                value = np.array(values[name], np.float32)
                if value.shape != shape or not np.isfinite(value).all():
                    given = "NaN or infinite values" if value.shape == shape else f"shape {value.shape}"
                    raise EpisodeError(
                        f"{self.path}: step {t}: {name} has {given}; it must be finite, of shape {shape}"
                    )
                if (most := np.abs(value).max(initial=0.0)) > (bound := largest(name, self._in_rad)):
                    raise EpisodeError(
                        f"{self.path}: step {t}: {name} has a value of size {most:g}; {bound:g} is the most"
                    )
                self._steps[name].append(value)
            for name, images in self._images.items():
                frame, shape = values[f"images/{name}"], images.shape[1:]
                if frame.shape != shape or frame.dtype != np.uint8:
                    given = f"{frame.dtype} of shape {frame.shape}"
                    raise EpisodeError(
                        f"{self.path}: step {t}: camera {name} gives uint8 of shape {shape}, not {given}"
                    )
                images.resize(t + 1, axis=0)
                # A chunk goes straight to the disk, past HDF5's cache, so that a full disk shows at once.
                images.id.write_direct_chunk((t, 0, 0, 0), zlib.compress(frame.tobytes(), GZIP_LEVEL))
            self._disk.check()

    def close(
        self, success: bool, success_published: bool | None = None, attributes: Mapping[str, Any] | None = None
    ) -> Path:
        """Completes the file, adds root attributes known only now, and gives it its name.

        Returns:
            Its path: another file that took the name meanwhile is not replaced, the number in the name counts up then.
        """
        with self._writing():
            if not self._steps["action"]:
                raise EpisodeError(f"{self.path}: has no steps; append at least one before close")
            for name, steps in self._steps.items():
                values = np.stack(steps) > 0 if name == "human" else np.stack(steps)
                name = f"observations/{name}" if name in SEEN else name
                self._file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
            max_reward = float(max(self._steps["reward"]))
            published = success if success_published is None else success_published
            told = dict(success=success, success_published=published, max_reward=max_reward)
            write_attributes(self._file, {**(attributes or {}), **told})
            self._file.close()
            self._disk.complete()
        self.path = self._disk.path
        return self.path

    def abort(self) -> None:
        """Gives the episode up and removes what was written of it; after `close` nothing is left to do."""
        self._file.close()
        self._disk.discard()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, *_) -> None:
        self.abort()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with _failures_named(self.path):
                yield
        except EpisodeError:
            self.abort()
            raise


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EpisodeError(
            f"{path}: cannot be written: {error.strerror or error}; earlier episodes are kept"
        ) from error


def versions() -> dict[str, str]:
    """Of this package and those that it records with, as far as they are installed."""
    found = {}
    for name in ("bimanual-act", "mujoco", "gymnasium", "numpy", "h5py"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
