"""Teleoperation: an agent that turns a person's target poses of the tools into joint targets.

The command follows the target on a nearly straight line at bounded speed and acceleration, and no joint turns faster
than `JOINT_SPEED`. A target that jumps, is out of reach or lies behind a singular pose slows or stops the arm.

A helper, which is any other agent, can share the work: an expert that moves one arm while a person moves the other, or
a policy that moves both until a person takes over (DAgger with a human gate: Kelly et al. 2019, arXiv 1810.02890).
"""

import time
from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np

from demos.ik import BimanualIK, rotation_matrix, rotation_vector
from demos.tool_poses import DOWN, LEVEL, SIDE
from envs.aloha import ARM_JOINTS, ARMS, FPS, HOME_ACTION
from envs.rollout import Agent

SPEED, ACCELERATION = 0.5, 3.0  # of a tool: m/s, m/s²
TURN_SPEED, TURN_ACCELERATION = 2.0, 12.0  # rad/s, rad/s²
JOINT_SPEED = 2.5  # rad/s; the real arms turn at up to 3.1
GRIPPER_SPEED = 4.0  # openings per second
STILL = 1e-4  # rad, or openings, per step
LOWEST = 0.005  # m: tools stay above the table
NEAR_LIMIT = 0.02  # rad
GRASP_POSES = {"down": DOWN, "level": LEVEL, "sideways": SIDE}
"""Name → arm → orientation of the tool in common grasps, a quaternion w, x, y, z. Objects on the table need "down"."""


class Follower:
    """Moves one arm's command towards the target pose of its tool.

    Attributes:
        joints: (6,) rad, commanded.
        gripper: commanded opening, 0 closed … 1 open.
        distance: m from the commanded pose to the target.
        out_of_reach: the arm is as near to the target as it can be, and does not reach it.
        at_limit: names of the joints at an end of their range.
    """

    def __init__(self, ik: BimanualIK, arm: str):
        self.ik, self.arm = ik, arm
        names = [f"{arm}_{name}" for name in ARM_JOINTS]
        self._range = np.stack([ik.model.joint(name).range for name in names])  # (6, 2) rad

    def start(self, command: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts at rest at a command (7,). Returns the tool's pose there, (3,) m and (3, 3)."""
        self.joints, self.gripper = command[:6].astype(np.float64), float(command[6])
        self._velocity, self._turning = np.zeros(3), np.zeros(3)
        self._blocked, self.distance = 0, 0.0
        return self.ik.forward(self.arm, self.joints)

    def step(self, position: np.ndarray, rotation: np.ndarray, gripper: float) -> np.ndarray:
        """One control step towards a target pose, (3,) m and (3, 3), and opening. Returns the command (7,)."""
        at, facing = self.ik.forward(self.arm, self.joints)
        away, turn = position - at, rotation_vector(rotation @ facing.T)
        self._velocity = _approach(self._velocity, away, SPEED, ACCELERATION)
        self._turning = _approach(self._turning, turn, TURN_SPEED, TURN_ACCELERATION)
        goal, goal_facing = at + self._velocity / FPS, rotation_matrix(self._turning / FPS) @ facing
        joints, _, _ = self.ik.solve(self.arm, goal, goal_facing, self.joints)
        change = joints - self.joints
        self.joints = self.joints + change * min(1.0, JOINT_SPEED / FPS / (np.abs(change).max() + 1e-12))
        reached, now_facing = self.ik.forward(self.arm, self.joints)
        # The next step starts at the velocity that was reached, so that the arm does not catch up later.
        self._velocity, self._turning = (reached - at) * FPS, rotation_vector(now_facing @ facing.T) * FPS
        self.distance = float(np.linalg.norm(position - reached))
        stuck = self.distance > 5e-3 and np.linalg.norm(self._velocity) < 0.01
        self._blocked = self._blocked + 1 if stuck else 0
        self.gripper += float(np.clip(gripper - self.gripper, -GRIPPER_SPEED / FPS, GRIPPER_SPEED / FPS))
        return self.command

    @property
    def command(self) -> np.ndarray:
        """(7,) float32: six joints in rad, opening of the gripper."""
        return np.array([*self.joints, self.gripper], np.float32)

    @property
    def out_of_reach(self) -> bool:
        return self._blocked > FPS // 5  # for a fifth of a second

    @property
    def at_limit(self) -> tuple[str, ...]:
        near = np.abs(self.joints[:, None] - self._range).min(axis=1) < NEAR_LIMIT
        return tuple(name for name, close in zip(ARM_JOINTS, near, strict=True) if close)


def _approach(velocity: np.ndarray, offset: np.ndarray, speed: float, acceleration: float) -> np.ndarray:
    """The next velocity (3,) per second along a remaining offset (3,): the fastest that can still brake."""
    distance = float(np.linalg.norm(offset))
    fastest = min(speed, np.sqrt(2 * acceleration * distance), distance * FPS / 2)
    change = offset / (distance + 1e-12) * fastest - velocity
    return velocity + change * min(1.0, acceleration / FPS / (np.linalg.norm(change) + 1e-12))


class TeleopAgent:
    """A person in one environment, with or without a helper. Any thread may set targets at any time.

    Args:
        helper: an agent that shares the work, or None.
        assisted_arms: the arms that the helper moves in the whole episode. None: it moves both until `take_over`.

    Attributes:
        human: whether a person moved an arm in the last step.
        still_steps: consecutive steps in which nothing moved and no target was set; 0 while a helper acts.
        followers: arm → its follower.
        latencies: seconds from setting a target to the first command that uses it, in this episode.
    """

    def __init__(self, helper: Agent | None = None, assisted_arms: Sequence[str] = ()):
        self.helper, self.assisted_arms = helper, tuple(assisted_arms)
        # A few iterations suffice from one control step to the next, and bound the time if there is no solution.
        self.followers = {arm: Follower(BimanualIK(max_steps=12, unroll=0.01), arm) for arm in ARMS}
        self._lock = Lock()
        self._begin()

    @property
    def cameras(self) -> tuple[str, ...]:
        return () if self.helper is None else self.helper.cameras

    @property
    def human_arms(self) -> tuple[str, ...]:
        """The arms that a person may move."""
        return tuple(arm for arm in ARMS if arm not in self.assisted_arms)

    @property
    def human_in_control(self) -> bool:
        """Whether a person moves all of `human_arms`; otherwise the helper moves both arms."""
        return self._human_in_control

    @property
    def helper_waits(self) -> bool:
        """While true, a helper of single arms stands still."""
        return self._helper_waits

    @helper_waits.setter
    def helper_waits(self, waits: bool) -> None:
        self._helper_waits, self.still_steps = waits, 0

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        if self.helper is not None:
            self.helper.reset(seeds, observation)
        with self._lock:
            self._begin()

    def needs_images(self) -> bool:
        acts = bool(self.assisted_arms) or not self._human_in_control
        return self.helper is not None and acts and self.helper.needs_images()

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        with self._lock:
            arms = self.human_arms if self._human_in_control else ()
            targets = {arm: (*self._pose[arm], self._opening[arm]) for arm in arms}
            if self._target_set_at is not None and targets:
                self.latencies.append(time.perf_counter() - self._target_set_at)
            self._target_set_at = None
        action = self._action.copy()
        helper = None if self._human_in_control and (not self.assisted_arms or self.helper_waits) else self.helper
        if helper is not None:
            theirs = helper(observation)[0]
            for arm in self.assisted_arms or ARMS:
                action[_SLICE[arm]] = theirs[_SLICE[arm]]
        for arm, target in targets.items():
            action[_SLICE[arm]] = self.followers[arm].step(*target)
        with self._lock:
            moves = helper is not None or self._target_set_at is not None or np.abs(action - self._action).max() > STILL
            self.still_steps = 0 if moves else self.still_steps + 1
            self._action, self.human = action, bool(targets)
            if not targets:  # also if a person took over meanwhile: they start from this command
                self._hold_targets()
        return action[None]

    def take_over(self) -> None:
        """From the next step on, a person moves both arms. They start from the helper's last command."""
        with self._lock:
            self._human_in_control, self.still_steps = True, 0

    def target(self, arm: str) -> tuple[np.ndarray, np.ndarray, float]:
        """The target of an arm: pose of its tool, (3,) m and (3, 3), world frame, and opening of its gripper."""
        with self._lock:
            position, rotation = self._pose[arm]
            return position.copy(), rotation.copy(), self._opening[arm]

    def move(self, arm: str, position: np.ndarray, rotation: np.ndarray) -> None:
        """Sets the target pose of an arm's tool: (3,) m and (3, 3), world frame."""
        with self._lock:
            position = np.array([*position[:2], max(LOWEST, position[2])])
            self._pose[arm] = position, np.array(rotation)
            self._target_set()

    def nudge(self, arm: str, offset: np.ndarray, turn: np.ndarray | None = None) -> None:
        """Shifts a target by (3,) m and rotates it by axis times angle (3,) rad, both in the world frame."""
        position, rotation, _ = self.target(arm)
        self.move(arm, position + offset, rotation if turn is None else rotation_matrix(turn) @ rotation)

    def grip(self, arm: str, opening: float) -> None:
        """Sets the target opening of an arm's gripper, 0 closed … 1 open."""
        with self._lock:
            self._opening[arm] = float(np.clip(opening, 0.0, 1.0))
            self._target_set()

    def _target_set(self) -> None:
        self.still_steps, self._target_set_at = 0, self._target_set_at or time.perf_counter()

    def _begin(self) -> None:
        self._helper_waits, self.still_steps = False, 0
        self.latencies: list[float] = []
        self.human = self._human_in_control = self.helper is None or bool(self.assisted_arms)
        self._action, self._target_set_at = HOME_ACTION.copy(), None
        self._hold_targets()

    def _hold_targets(self) -> None:
        self._pose = {arm: self.followers[arm].start(self._action[_SLICE[arm]]) for arm in ARMS}
        self._opening = {arm: float(self._action[_SLICE[arm]][6]) for arm in ARMS}


_SLICE = {arm: slice(7 * i, 7 * i + 7) for i, arm in enumerate(ARMS)}
