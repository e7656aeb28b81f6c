"""Two Pandas lift a pot by its handles: TwoArmLift of robosuite, and a script for it.

Two arms of seven joints and a gripper, 20 Hz. Actions (16,) are absolute: joint targets in rad, and for each gripper -1
open … 1 closed. qpos (16,) has the joints in rad and the opening of the fingers in m.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import gymnasium as gym
import mujoco
import numpy as np
import robosuite  # pyright: ignore[reportMissingImports]
from robosuite.controllers import load_part_controller_config  # pyright: ignore[reportMissingImports]
from scipy.spatial.transform import Rotation

from demos.robot import Robot
from demos.spec import EpisodeSpec

SIZE = (120, 160)  # height, width
CAMERAS = {"front": (0.8, 180, -50)}  # distance in m, azimuth and elevation in degrees
LOOK_AT = (0.0, 0.0, 0.92)
NAMES = [f"robot{arm}_{joint}" for arm in (0, 1) for joint in (*(f"joint{i}" for i in range(1, 8)), "gripper")]
ROBOT = Robot.from_joint_names(NAMES, 20.0)
SPEC = EpisodeSpec(ROBOT, {name: SIZE for name in CAMERAS}, task="Lift the pot by its handles.")
HELD = 10  # steps in a row with the pot lifted are a success
SPEED, TURN = 0.015, 0.1  # m and rad a step, of the script
NOISY = 20  # first steps, which `noise` changes
NEAR = 0.005  # m: as good as there
ABOVE, BELOW, LIFT = 0.09, 0.01, 0.2  # m: over the handles, under them, and up


class TwoArmLiftEnv(gym.Env):
    """TwoArmLift with our observations: qpos and qvel, and images from `render_cameras`."""

    def __init__(self, horizon: int = 200):
        arm = load_part_controller_config(default_controller="JOINT_POSITION")
        arm |= {"input_type": "absolute", "kp": 300, "gripper": {"type": "GRIP"}}
        self.env = robosuite.make(
            "TwoArmLift",
            robots=["Panda", "Panda"],
            env_configuration="opposed",
            controller_configs={"type": "BASIC", "body_parts": {"right": arm}},
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            use_object_obs=False,
            control_freq=round(ROBOT.control_hz),
            horizon=10**6,
            hard_reset=False,
        )
        self._horizon, self._renderer = horizon, None
        box = gym.spaces.Box(-np.inf, np.inf, (16,), np.float32)
        self.observation_space, self.action_space = gym.spaces.Dict({"qpos": box, "qvel": box}), box

    def reset(self, *, seed=None, options=None):
        self.env.rng = self.env.placement_initializer.rng = np.random.default_rng(seed)
        for robot in self.env.robots:
            robot.rng = self.env.rng
        self.env.reset()
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data
        self._t = self._held = self._success = 0
        return self._observation(), {}

    def step(self, action):
        self.env.step(np.asarray(action, np.float64))
        self._t += 1
        lifted = bool(self.env.reward() > 0)  # robosuite's: 10 cm above the table, and tilted by less than 30°
        self._held = self._held + 1 if lifted else 0
        self._success |= self._held >= HELD  # stays true
        info = {"is_success": bool(self._success), "is_success_published": lifted}
        return self._observation(), float(lifted), False, self._t >= self._horizon, info

    def render_cameras(self) -> dict[str, np.ndarray]:
        """camera → (H, W, 3) uint8 RGB"""
        self._renderer = self._renderer or mujoco.Renderer(self.model, *SIZE)
        option = mujoco.MjvOption()
        option.geomgroup[0] = option.sitegroup[:] = 0  # no collision geometries
        frames = {}
        for name, (distance, azimuth, elevation) in CAMERAS.items():
            camera = mujoco.MjvCamera()
            camera.lookat[:], camera.distance, camera.azimuth, camera.elevation = LOOK_AT, distance, azimuth, elevation
            self._renderer.update_scene(self.data, camera, option)
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False  # slow without a GPU
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            frames[f"images/{name}"] = self._renderer.render().copy()
        return frames

    def _observation(self) -> dict[str, np.ndarray]:
        qpos, qvel = [], []
        for robot in self.env.robots:
            fingers = [self.data.joint(f"gripper{robot.idn}_right_finger_joint{i}") for i in (1, 2)]
            qpos += [*self.data.qpos[robot._ref_joint_pos_indexes], fingers[0].qpos[0] - fingers[1].qpos[0]]
            qvel += [*self.data.qvel[robot._ref_joint_vel_indexes], fingers[0].qvel[0] - fingers[1].qvel[0]]
        return {"qpos": np.array(qpos, np.float32), "qvel": np.array(qvel, np.float32)}


make = TwoArmLiftEnv


class Arm:
    """Where one arm's end effector is commanded to be, and its inverse kinematics."""

    def __init__(self, env: TwoArmLiftEnv, number: int):
        self._model, robot = env.model, env.env.robots[number]
        self._data = mujoco.MjData(env.model)
        self._data.qpos[:] = env.data.qpos
        mujoco.mj_forward(env.model, self._data)
        self._positions, self._velocities = robot._ref_joint_pos_indexes, robot._ref_joint_vel_indexes
        self._site = self._data.site(f"gripper{number}_right_grip_site")
        handle = env.data.site(f"pot_handle{number}").xpos
        self.handle, x = handle.copy(), (handle - env.data.body("pot_root").xpos) * (1, 1, 0)
        x /= np.linalg.norm(x)  # the fingers close along it
        self.position, self.rotation = self._site.xpos.copy(), self._site.xmat.reshape(3, 3).copy()
        x *= 1 if x @ self.rotation[:, 0] > 0 else -1
        self.grasp = np.stack([x, np.cross((0.0, 0.0, -1.0), x), (0.0, 0.0, -1.0)], axis=1)

    def towards(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """The next position and rotation on the way to a target and the grasp's rotation, and whether this is them."""
        way, turn = target - self.position, Rotation.from_matrix(self.grasp @ self.rotation.T).as_rotvec()
        there = bool(np.linalg.norm(way) < NEAR and np.linalg.norm(turn) < 0.02)
        return (
            self.position + at_most(way, SPEED),
            Rotation.from_rotvec(at_most(turn, TURN)).as_matrix() @ self.rotation,
            there,
        )

    def joints(self, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Joints (7,) in rad that bring the end effector there, near those of the call before."""
        moves = np.zeros((6, self._model.nv))
        for _ in range(4):
            mujoco.mj_kinematics(self._model, self._data)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, moves[:3], moves[3:], self._site.id)
            turn = Rotation.from_matrix(rotation @ self._site.xmat.reshape(3, 3).T).as_rotvec()
            error = [*(position - self._site.xpos), *turn]
            own = moves[:, self._velocities]
            self._data.qpos[self._positions] += own.T @ np.linalg.solve(own @ own.T + 1e-4 * np.eye(6), error)
        return self._data.qpos[self._positions].copy()


class Expert:
    """Both arms above their handles, down, close, up: one step of one episode after the other.

    Args:
        noise: of the commanded positions on the way to the handles, as a share of `SPEED`; intended commands lead back.
    """

    def __init__(self, env: TwoArmLiftEnv, seed: int, noise: float = 0.0):
        self._arms = [Arm(env, number) for number in (0, 1)]
        self._noise, self._rng = noise, np.random.default_rng([seed, 7])
        self._stage, self._closing, self._t, self._drift = 0, 0, 0, np.zeros((2, 3))

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """The action to command, and the one that is intended, (16,) each."""
        offset, closed = ((ABOVE, -1.0), (-BELOW, -1.0), (-BELOW, 1.0), (LIFT, 1.0))[self._stage]
        self._drift += -self._drift / 8 + self._rng.normal(size=(2, 3)) * self._noise * SPEED / 2
        action, intended, arrived = [], [], []
        for arm, drift in zip(self._arms, self._drift, strict=True):
            position, rotation, there = arm.towards(arm.handle + (0.0, 0.0, offset))
            intended += [*arm.joints(position, rotation), closed]
            arm.position, arm.rotation = position + drift * (self._t < NOISY), rotation
            action += [*arm.joints(arm.position, rotation), closed]
            arrived.append(there)
        self._closing += self._stage == 2
        self._t += 1
        if all(arrived) and self._stage < 3 and (self._stage != 2 or self._closing > 10):
            self._stage += 1
        return np.array(action, np.float32), np.array(intended, np.float32)


def at_most(vector: np.ndarray, length: float) -> np.ndarray:
    return vector * min(1.0, length / max(float(np.linalg.norm(vector)), 1e-9))
