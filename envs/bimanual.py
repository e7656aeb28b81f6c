"""Base of the tasks: two arms at a table, physics, observation, and rendering on request.

A task is a subclass in a file of its own: model, initial object poses, reward stages, success.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from envs import EnvError
from envs.aloha import (
    ARM_JOINTS,
    ARMS,
    CAMERAS,
    FINGER_SPAN,
    FPS,
    HOME_ACTION,
    finger_from_gripper,
    gripper_from_finger,
)
from envs.display import display_answers
from envs.gl import check_gl, make_renderer, mujoco

ASSETS = Path(__file__).parent / "assets"


class BimanualEnv(gym.Env, ABC):
    """Base of every task.

    Observation, a dict with the names that also stand in the episode file:
        qpos (14,) float32: joint positions in rad, grippers 0 closed … 1 open, left arm first.
        qvel (14,) float32: joint velocities in rad/s, grippers in openings per second.
        env_state (7 · objects,) float32: per object position in metres and quaternion (w, x, y, z).
        images/<camera> (H, W, 3) uint8 RGB, for each of `cameras`, unless `lazy`.

    Action: (14,) float32, absolute joint position targets in rad, grippers 0 closed … 1 open, held for 0.02 s.

    Reward: the stage, 0 … 4. `info` has `is_success` (strict, see the task), `is_success_published` (the highest reward
    so far is 4, as in the ACT paper), the boolean terms of the stages as `term/<name>` and, if the task has several
    variants, whether the episode shows each of them as `variant/<name>`.

    Args:
        cameras: names of the cameras to observe, all of size `height` × `width`, or a dict name → (height, width).
        height, width: image size in pixels; also the size of `render()`.
        render_mode: "rgb_array" for `render()`, "human" for a viewer window (needs a display).
        render_camera: the camera that `render()` shows.
        horizon: steps after which an episode is truncated; an episode never terminates earlier.
        lazy: leave images out of the observation; `render_cameras()` renders them on request.
            Rendering costs far more than physics, and a policy that executes chunks needs images once per chunk.

    Raises:
        EnvError: unknown camera or render mode, sizes that are not positive, or rendering does not work here.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": FPS}

    model_file: ClassVar[str]
    task: ClassVar[str]  # description
    objects: ClassVar[tuple[str, ...]]  # free bodies, in the order of env_state
    variants: ClassVar[tuple[str, ...]] = ()  # names of the variants of the task, where it has several
    HOLD_STEPS: ClassVar[int] = 25  # strict success must hold for this many consecutive steps: 0.5 s

    def __init__(
        self,
        cameras: Sequence[str] | Mapping[str, tuple[int, int]] = (),
        height: int = 480,
        width: int = 640,
        render_mode: str | None = None,
        render_camera: str = "angle",
        horizon: int = 400,
        lazy: bool = False,
    ):
        sizes = dict(cameras) if isinstance(cameras, Mapping) else dict.fromkeys(cameras, (height, width))
        for name in (*sizes, render_camera):
            if name not in CAMERAS:
                raise EnvError(f"unknown camera {name!r}; known cameras: {', '.join(CAMERAS)}")
        for name, size in [("render()", (height, width)), *sizes.items()]:
            if min(size) < 1:
                raise EnvError(f"image size of {name} must be positive, got {size[0]} × {size[1]} (height × width)")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise EnvError(f"unknown render_mode {render_mode!r}; known: {', '.join(self.metadata['render_modes'])}")
        if render_mode == "human" and sys.platform == "linux" and not os.environ.get("WAYLAND_DISPLAY"):
            display = os.environ.get("DISPLAY", "")
            if not display_answers(display):
                what = f"no X server answers at DISPLAY={display}" if display else "there is no display"
                raise EnvError(f"render_mode 'human' opens a window and {what}; use 'rgb_array'")
        if horizon < 1:
            raise EnvError(f"horizon must be at least 1 step, got {horizon}")
        self.cameras = {name: (int(h), int(w)) for name, (h, w) in sizes.items()}
        self.render_mode, self.render_camera, self.render_size = render_mode, render_camera, (height, width)
        self.horizon, self.lazy = horizon, lazy
        if sizes or render_mode == "rgb_array":
            check_gl()

        self.model = mujoco.MjModel.from_xml_path(str(ASSETS / self.model_file))
        self.data = mujoco.MjData(self.model)
        self._substeps = round(1 / FPS / self.model.opt.timestep)
        self._renderers: dict[tuple[int, int], Any] = {}
        self._viewer: Any = None
        self._resolve_names()

        joint_range = self.model.jnt_range[self._arm_joint_ids]  # (12, 2) rad
        bounds = np.insert(joint_range, (6, 12), (0.0, 1.0), axis=0).astype(np.float32)
        self.action_space = gym.spaces.Box(bounds[:, 0], bounds[:, 1], dtype=np.float32)
        # Generous physical bounds: rad, rad/s (a gripper may cross its opening in 2 ms), metres around the table.
        limits = {"qpos": (14, 7.0), "qvel": (14, 500.0), "env_state": (7 * len(self.objects), 10.0)}
        spaces: dict[str, gym.Space] = {
            name: gym.spaces.Box(-bound, bound, (size,), np.float32) for name, (size, bound) in limits.items()
        }
        if not lazy:
            for name, (h, w) in self.cameras.items():
                spaces[f"images/{name}"] = gym.spaces.Box(0, 255, (h, w, 3), np.uint8)
        self.observation_space = gym.spaces.Dict(spaces)

    def _resolve_names(self) -> None:
        """Names → indices, once."""
        joint, actuator = self.model.joint, self.model.actuator
        arm = [f"{side}_{name}" for side in ARMS for name in ARM_JOINTS]
        self._arm_joint_ids = np.array([joint(name).id for name in arm])
        observed = [f"{side}_{name}" for side in ARMS for name in (*ARM_JOINTS, "left_finger")]
        self._qpos_index = np.array([joint(name).qposadr[0] for name in observed])
        self._qvel_index = np.array([joint(name).dofadr[0] for name in observed])
        self._arm_ctrl = np.array([actuator(name).id for name in arm])
        # Columns: left and right finger of each arm. The right finger moves to the other side.
        fingers = [[actuator(f"{side}_{f}_finger").id for f in ("left", "right")] for side in ARMS]
        self._finger_ctrl = np.array(fingers)  # (2, 2)
        self._finger_qpos = self.model.jnt_qposadr[self.model.actuator_trnid[self._finger_ctrl, 0]]  # (2, 2)
        self._object_qpos = np.concatenate([joint(name).qposadr[0] + np.arange(7) for name in self.objects])
        # Each geom belongs to a named part; contacts are judged between parts.
        self._part_of_geom = np.array([self._part(geom) for geom in range(self.model.ngeom)], dtype=object)

    def _part(self, geom: int) -> str:
        """The part that a geom belongs to: an arm's fingers are its gripper, the world's geoms have their own names."""
        body = self.model.body(self.model.geom_bodyid[geom]).name
        if body.endswith("_finger_link"):
            return f"{body.split('_')[0]}_gripper"
        return self.model.geom(geom).name if body == "world" else body

    # ---------------------------------------------------------------------------------------------- a task implements

    @abstractmethod
    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Object name → pose (7,) at the start of an episode: position in m, quaternion w, x, y, z."""

    @abstractmethod
    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        """The boolean terms of the reward stages, from the pairs of parts that touch."""

    @abstractmethod
    def stage(self, terms: dict[str, bool]) -> int:
        """The reward, 0 … 4, as published."""

    def detect_variant(self, terms: dict[str, bool]) -> str:
        """The variant that shows at this step, or "". The first one of an episode is kept as `variant`."""
        return ""

    @abstractmethod
    def goal_reached(self, terms: dict[str, bool]) -> bool:
        """Whether the strict goal is reached at this step; `is_success` needs `HOLD_STEPS` consecutive steps."""

    # -------------------------------------------------------------------------------------------------- Gymnasium API

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self._command(HOME_ACTION)
        self.data.qpos[self._qpos_index] = HOME_ACTION  # the fingers follow below
        self.data.qpos[self._finger_qpos] = self.data.ctrl[self._finger_ctrl]
        poses = self.sample_object_poses(self.np_random)
        self.data.qpos[self._object_qpos] = np.concatenate([poses[name] for name in self.objects])
        mujoco.mj_forward(self.model, self.data)
        self._t, self._held, self._best, self._success, self.variant = 0, 0, 0, False, ""
        _, info = self._judge()
        self._update_viewer()
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        action = np.asarray(action)
        if action.shape != (14,) or not np.isfinite(action).all():
            raise EnvError(f"an action is 14 finite numbers (7 per arm, left first), got {action!r}")
        self._command(action)
        mujoco.mj_step(self.model, self.data, self._substeps)
        self._t += 1
        reward, info = self._judge()
        self._update_viewer()
        return self._observe(), float(reward), False, self._t >= self.horizon, info

    @property
    def goal_hold_running(self) -> bool:
        """Whether the strict goal is reached, but not yet for `HOLD_STEPS` steps."""
        return 0 < self._held < self.HOLD_STEPS

    def set_state(self, qpos: np.ndarray, env_state: np.ndarray | None) -> None:
        """Sets the joints (14,) and object poses (7 · objects,) of an observation, for rendering; None: no objects.

        Both fingers of a gripper are placed symmetrically: an observation has one opening per gripper.
        """
        finger = finger_from_gripper(qpos[[6, 13]].astype(np.float64))
        self.data.qpos[self._qpos_index] = qpos
        self.data.qpos[self._finger_qpos] = np.stack([finger, -finger], axis=1)
        away = np.tile([0.0, 0.0, -5.0, 1.0, 0.0, 0.0, 0.0], len(self.objects))
        self.data.qpos[self._object_qpos] = away if env_state is None else env_state
        mujoco.mj_kinematics(self.model, self.data)

    def render_cameras(self) -> dict[str, np.ndarray]:
        """Renders the observed cameras: `images/<camera>` → (H, W, 3) uint8."""
        return {f"images/{name}": self._render(name, size) for name, size in self.cameras.items()}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """In mode "rgb_array": the image of `render_camera`, (height, width, 3) uint8."""
        if self.render_mode == "rgb_array":
            return self._render(self.render_camera, self.render_size)
        return None

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    # ------------------------------------------------------------------------------------------------------- private

    def _command(self, action: np.ndarray) -> None:
        """Writes an action to the actuators; targets are clipped to the actuators' ranges."""
        self.data.ctrl[self._arm_ctrl] = action[[0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]]
        finger = finger_from_gripper(action[[6, 13]].astype(np.float64))
        self.data.ctrl[self._finger_ctrl] = np.stack([finger, -finger], axis=1)
        limits = self.model.actuator_ctrlrange
        np.clip(self.data.ctrl, limits[:, 0], limits[:, 1], out=self.data.ctrl)

    def _observe(self) -> dict[str, np.ndarray]:
        qpos = self.data.qpos[self._qpos_index]
        qvel = self.data.qvel[self._qvel_index]
        qpos[[6, 13]] = gripper_from_finger(qpos[[6, 13]])
        qvel[[6, 13]] /= FINGER_SPAN
        observation = {"qpos": qpos, "qvel": qvel, "env_state": self.data.qpos[self._object_qpos]}
        observation = {name: value.astype(np.float32) for name, value in observation.items()}
        return observation if self.lazy else observation | self.render_cameras()

    def _judge(self) -> tuple[int, dict[str, Any]]:
        parts = self._part_of_geom[self.data.contact.geom]  # (contacts, 2)
        terms = self.terms({frozenset(pair) for pair in parts})
        self.variant = self.variant or self.detect_variant(terms)
        reward = self.stage(terms)
        self._best = max(self._best, reward)
        self._held = self._held + 1 if self.goal_reached(terms) else 0
        self._success |= self._held >= self.HOLD_STEPS
        info: dict[str, Any] = {f"term/{name}": bool(value) for name, value in terms.items()}
        info |= {f"variant/{name}": self.variant == name for name in self.variants}
        return reward, info | {"is_success": self._success, "is_success_published": self._best == 4}

    def _render(self, camera: str, size: tuple[int, int]) -> np.ndarray:
        renderer = self._renderers.get(size)
        if renderer is None:
            self.model.vis.global_.offheight = max(self.model.vis.global_.offheight, size[0])
            self.model.vis.global_.offwidth = max(self.model.vis.global_.offwidth, size[1])
            renderer = self._renderers[size] = make_renderer(self.model, *size)
            # Shadows take most of the time of a frame in software rendering.
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        renderer.update_scene(self.data, camera)
        return renderer.render()

    def _update_viewer(self) -> None:
        if self.render_mode != "human":
            return
        if self._viewer is None:
            import mujoco.viewer  # loads a window toolkit

            self._viewer = mujoco.viewer.launch_passive(self.model, self.data)
        self._viewer.sync()


def pose(position: np.ndarray, height: float) -> np.ndarray:
    """A pose (7,) without rotation, `height` m above a position (2,) on the table."""
    return np.array([*position, height, 1.0, 0.0, 0.0, 0.0])
