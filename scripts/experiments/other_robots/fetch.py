"""Fetch picks a cube up and brings it to the red ball: FetchPickAndPlace of gymnasium-robotics, and a script for it.

One arm, 25 Hz. Actions (4,) are relative: the end effector moves by 5 cm times x, y, z in -1 … 1; the fingers open by
the fourth number or close, where it is negative. qpos (4,) is the position of the end effector and the opening, in m.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

from typing import Any

import gymnasium as gym
import gymnasium_robotics  # pyright: ignore[reportMissingImports]
import mujoco
import numpy as np

from demos.robot import Arm, Chain, Link, Robot
from demos.spec import EpisodeSpec

gym.register_envs(gymnasium_robotics)

SIZE = (120, 160)  # height, width
CAMERAS = {"front": (0.9, 180, -30), "side": (1.0, 90, -25)}  # distance in m, azimuth and elevation in degrees
LOOK_AT = (1.32, 0.75, 0.56)
SLIDES = Chain((Link(0, "x", slides=True), Link(1, "y", slides=True), Link(2, "z", slides=True)))
ROBOT = Robot(("ee_x", "ee_y", "ee_z", "gripper"), (Arm("arm", (0, 1, 2), 3, SLIDES),), 25.0, ("m",) * 4, name="fetch")
SPEC = EpisodeSpec(
    ROBOT,
    {name: SIZE for name in CAMERAS},
    task="Pick the cube up and bring it to the red ball.",
    action_semantics="relative_ee",
    action_names=("dx", "dy", "dz", "gripper"),
)
HELD = 10  # steps in a row with the cube at the ball are a success
SPEED = 0.3  # the script's, as a share of the largest action


class FetchEnv(gym.Env):
    """FetchPickAndPlace with our observations: qpos and qvel, and images from `render_cameras`."""

    def __init__(self, horizon: int = 150):
        self._env = gym.make("FetchPickAndPlace-v4", max_episode_steps=10**6)
        self._horizon, self._renderer = horizon, None
        box = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.observation_space = gym.spaces.Dict({"qpos": box, "qvel": box})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.state, _ = self._env.reset(seed=seed)
        while self._solved():  # the ball appeared around the cube
            self.state, _ = self._env.reset()
        self._t = self._held = self._success = 0
        return self._observation(), {}

    def step(self, action):
        self.state, *_ = self._env.step(np.clip(action, -1.0, 1.0))
        self._t += 1
        self._held = self._held + 1 if self._solved() else 0
        self._success |= self._held >= HELD  # stays true
        info = {"is_success": bool(self._success), "is_success_published": self._held > 0}
        return self._observation(), float(self._solved()), False, self._t >= self._horizon, info

    def render_cameras(self) -> dict[str, np.ndarray]:
        """camera → (H, W, 3) uint8 RGB"""
        env: Any = self._env.unwrapped
        self._renderer = self._renderer or mujoco.Renderer(env.model, *SIZE)
        env._render_callback()  # moves the red ball to the goal
        frames = {}
        for name, (distance, azimuth, elevation) in CAMERAS.items():
            camera = mujoco.MjvCamera()
            camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = LOOK_AT, distance, azimuth, elevation
            self._renderer.update_scene(env.data, camera)
            frames[f"images/{name}"] = self._renderer.render().copy()
        return frames

    def _solved(self) -> bool:
        return bool(np.linalg.norm(self.state["achieved_goal"] - self.state["desired_goal"]) < 0.05)

    def _observation(self) -> dict[str, np.ndarray]:
        state = self.state["observation"]
        qpos, qvel = [*state[:3], state[9] + state[10]], [*state[20:23], state[23] + state[24]]
        return {"qpos": np.array(qpos, np.float32), "qvel": np.array(qvel, np.float32)}


make = FetchEnv


class Expert:
    """Above the cube, down, close, to the ball: one step of one episode after the other.

    Args:
        noise: of the commands, as a share of `SPEED`, as a drift that changes within some 8 steps; intended commands
            lead back from it.
    """

    def __init__(self, env: FetchEnv, seed: int, noise: float = 0.0):
        self._env, self._noise, self._rng = env, noise, np.random.default_rng([seed, 7])
        self._drift, self._closed, self._lowered = np.zeros(3), 0, False

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """The action to command, and the one that is intended, (4,) each."""
        state = self._env.state
        hand, cube, goal = state["observation"][:3], state["achieved_goal"], state["desired_goal"]
        beside = np.linalg.norm((hand - cube)[:2])
        if self._closed and np.linalg.norm(hand - cube) > 0.05:  # lost
            self._closed, self._lowered = 0, False
        self._lowered = beside < (0.03 if self._lowered else 0.012)
        steady = True
        if self._closed or (self._lowered and np.linalg.norm(hand - cube) < 0.012):
            self._closed += 1
            steady = self._closed <= 6
            target = cube if steady else goal + (hand - cube)
        else:
            steady = self._lowered
            target = cube if self._lowered else cube + np.array([0.0, 0.0, 0.07])
        intended = np.array([*np.clip((target - hand) * 8, -SPEED, SPEED), -1.0 if self._closed else 1.0])
        self._drift += -self._drift / 8 + self._rng.normal(size=3) * self._noise * SPEED / 2
        action = intended + np.array([*(self._drift * (not steady)), 0.0])
        return action.clip(-1, 1).astype(np.float32), intended.astype(np.float32)
