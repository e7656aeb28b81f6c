"""Scripted experts: waypoints in space, joint targets out.

An expert reads the objects' poses once, at the start of an episode, draws a path for each tool centre point through
timed waypoints, and turns it into joint targets by inverse kinematics. Between waypoints the tool follows a
minimum-jerk profile (Flash and Hogan 1985), so commands are smooth.

With `noise`, smooth detours are added to the path away from the moments of contact: what the expert commands leads
the tool off its way and back again, and the demonstrations show how to recover.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from demos.ik import BimanualIK
from envs.aloha import ARMS, HOME_ARM, HOME_GRIPPER

OPEN, CLOSED = 1.0, 0.0
HORIZON = 400


@dataclass(frozen=True)
class Waypoint:
    """Where a tool centre point shall be at step t."""

    t: int
    position: np.ndarray  # (3,) m, world frame
    rotation: np.ndarray  # (4,) quaternion w, x, y, z, world frame
    gripper: float  # opening, 0 closed … 1 open
    exact: bool = False  # no detour here or on the way here: something is touched


Plan = dict[str, list[Waypoint]]
"""Arm → waypoints in order of time; the home pose at step 0 is put before them."""


def tool_rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Quaternion of a tool that points along x, turned by roll about x, then pitched down, then yawed; degrees."""
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.radians([yaw, pitch, roll]), "zyx")
    return quaternion


LEVEL = {"left": tool_rotation(), "right": tool_rotation(yaw=180)}
PICK = {"left": tool_rotation(pitch=60), "right": tool_rotation(yaw=180, pitch=60)}


def plan_transfer_cube(env_state: np.ndarray) -> Plan:
    """The right arm fetches the cube and offers it in the middle; the left arm, turned by 90°, takes it from there."""
    cube = np.array([*env_state[:2], 0.02])
    meeting = np.array([0.0, 0.5, 0.25])
    grasp = cube + [0.0, 0.0, 0.015]
    down, side = PICK["right"], tool_rotation(roll=90)
    return {
        "right": [
            Waypoint(75, grasp + [0, 0, 0.08], down, OPEN),
            Waypoint(115, grasp, down, OPEN, exact=True),
            Waypoint(145, grasp, down, CLOSED, exact=True),
            Waypoint(175, grasp + [0, 0, 0.08], down, CLOSED, exact=True),
            Waypoint(230, meeting, down, CLOSED),
            Waypoint(290, meeting, down, CLOSED, exact=True),
            Waypoint(315, meeting, down, OPEN, exact=True),
            Waypoint(355, meeting + [0.12, 0, 0.02], down, OPEN, exact=True),
        ],
        "left": [
            Waypoint(120, meeting + [-0.16, 0, -0.02], side, OPEN),
            Waypoint(225, meeting + [-0.09, 0, -0.02], side, OPEN),
            Waypoint(265, meeting + [0.015, 0, -0.02], side, OPEN, exact=True),
            Waypoint(290, meeting + [0.015, 0, -0.02], side, CLOSED, exact=True),
            Waypoint(320, meeting + [0.015, 0, -0.02], side, CLOSED, exact=True),
            Waypoint(370, meeting + [-0.10, 0, 0.0], side, CLOSED),
        ],
    }


def plan_insertion(env_state: np.ndarray) -> Plan:
    """Each arm fetches its part; they meet in mid-air and push the peg into the socket."""
    meeting = np.array([0.0, 0.5, 0.15])
    parts = {"right": np.array([*env_state[0:2], 0.010]), "left": np.array([*env_state[7:9], 0.022])}
    # The tool stands this far above a part's centre when it closes, and so it does when they meet.
    above = {"right": np.array([0, 0, 0.020]), "left": np.array([0, 0, 0.010])}
    away = {"right": np.array([1.0, 0, 0]), "left": np.array([-1.0, 0, 0])}
    plan: Plan = {}
    for arm in ARMS:
        grasp, rotation = parts[arm] + above[arm], PICK[arm]
        plan[arm] = [
            Waypoint(90, grasp + [0, 0, 0.08], rotation, OPEN),
            Waypoint(135, grasp, rotation, OPEN, exact=True),
            Waypoint(170, grasp, rotation, CLOSED, exact=True),
            Waypoint(200, grasp + [0, 0, 0.08], rotation, CLOSED, exact=True),
            Waypoint(265, meeting + above[arm] + 0.11 * away[arm], rotation, CLOSED),
            Waypoint(360, meeting + above[arm] + 0.043 * away[arm], rotation, CLOSED, exact=True),
        ]
    return plan


PLANS: dict[str, Callable[[np.ndarray], Plan]] = {
    "BimanualTransferCube-v0": plan_transfer_cube,
    "BimanualInsertion-v0": plan_insertion,
}


class ScriptedExpert:
    """An agent that follows the task's plan.

    Args:
        env_id: the task, by its Gymnasium id.
        noise: standard deviation of the detours in metres; 0.01 to 0.03 is useful, 0 is the plain expert.

    Raises:
        ValueError: no expert for this environment.
    """

    cameras: tuple[str, ...] = ()

    def __init__(self, env_id: str, noise: float = 0.0):
        if env_id not in PLANS:
            raise ValueError(f"there is no scripted expert for {env_id!r}; there are for: {', '.join(PLANS)}")
        self.plan, self.noise, self.ik = PLANS[env_id], noise, BimanualIK()

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        states = zip(seeds, observation["env_state"], strict=True)
        self._commands = np.stack([self.commands(seed, state) for seed, state in states], axis=1)  # (T, N, 14)
        self._t = 0

    def looks(self) -> bool:
        return False

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        action = self._commands[min(self._t, len(self._commands) - 1)]
        self._t += 1
        return action

    def commands(self, seed: int, env_state: np.ndarray) -> np.ndarray:
        """The whole episode's actions (T, 14) float32, from the object poses at its start."""
        plan = self.plan(env_state.astype(np.float64))
        # A stream of its own, so that the detours do not repeat the numbers that placed the objects.
        rng = np.random.default_rng([seed, 0xDE])
        columns = []
        for arm in ARMS:
            position, rotation, gripper, exact = self._path(arm, plan[arm])
            if self.noise > 0:
                position = position + detours(rng, self.noise, ~exact)
            joints = np.empty((HORIZON, 6))
            last = np.array(HOME_ARM)
            for t in range(HORIZON):
                last, _, _ = self.ik.solve(arm, position[t], rotation[t], last)
                joints[t] = last
            columns += [joints, gripper[:, None]]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _path(self, arm: str, waypoints: list[Waypoint]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Positions (T, 3), rotations (T, 3, 3), gripper openings (T,) and exactness (T,) at every step."""
        at, facing = self.ik.forward(arm, np.array(HOME_ARM))
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, facing.ravel())
        waypoints = [Waypoint(0, at, quaternion, HOME_GRIPPER), *waypoints]
        times = np.array([waypoint.t for waypoint in waypoints])
        positions, rotations = np.empty((HORIZON, 3)), np.empty((HORIZON, 3, 3))
        grippers, exact = np.empty(HORIZON), np.zeros(HORIZON, dtype=bool)
        for t in range(HORIZON):
            # Step t commands where to be at t + 1.
            i = min(int(np.searchsorted(times, t + 1)), len(times) - 1)
            a, b = waypoints[i - 1], waypoints[i]
            s = minimum_jerk((t + 1 - a.t) / (b.t - a.t))
            positions[t] = (1 - s) * a.position + s * b.position
            rotations[t] = _slerp(a.rotation, b.rotation, s)
            grippers[t] = (1 - s) * a.gripper + s * b.gripper
            exact[t] = b.exact
        return positions, rotations, grippers, exact


def minimum_jerk(s: float) -> float:
    """Fraction of the way after a fraction s of the time: at rest at both ends."""
    s = min(max(s, 0.0), 1.0)
    return s**3 * (10 - 15 * s + 6 * s**2)


def detours(rng: np.random.Generator, size: float, allowed: np.ndarray) -> np.ndarray:
    """Smooth random bumps (T, 3) in m, one after the other, each zero at its ends and only where `allowed` (T,)."""
    offset = np.zeros((len(allowed), 3))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], allowed.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        t = start
        while stop - t >= 20:
            duration = min(int(rng.integers(20, 50)), stop - t)
            bump = np.sin(np.pi * np.arange(duration) / duration) ** 2
            offset[t : t + duration] = bump[:, None] * rng.normal(0.0, size, 3)
            t += duration
    return offset


def _slerp(a: np.ndarray, b: np.ndarray, s: float) -> np.ndarray:
    """Rotation (3, 3) at the fraction s of the shortest way from quaternion a to b."""
    velocity, quaternion, matrix = np.zeros(3), a.copy(), np.zeros(9)
    mujoco.mju_subQuat(velocity, b, a)
    mujoco.mju_quatIntegrate(quaternion, velocity, s)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
