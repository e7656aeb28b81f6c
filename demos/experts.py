"""Scripted experts: waypoints in space, joint targets out.

An expert reads the objects' poses once, at the start of an episode, draws a path for each tool centre point through
timed waypoints, and turns it into joint targets by inverse kinematics. Near contact the tool moves in straight lines;
elsewhere the joints move from waypoint to waypoint, which keeps clear of the wrist's singular poses. Either way at a
constant speed between two short ramps: a motion that starts or ends slowly, such as a minimum-jerk one, looks almost
like a pause, and a policy without memory that looks there stays there.

With `noise`, smooth detours are added to the path away from the moments of contact: what is commanded leads the tool
off its way and back again, while what the expert intends stays the path itself. Policies are trained on the intention
(DART, Laskey et al. 2017, arXiv 1703.09327): they see how to recover, and since the pose of the arm no longer gives
away where it is going, they have to look.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from demos.ik import BimanualIK, quaternion_matrix, rotation_matrix, rotation_vector
from envs.aloha import ARMS, HOME_ARM, HOME_GRIPPER, OTHER
from envs.give_cube import COLOURS
from envs.gl import mujoco

OPEN, CLOSED = 1.0, 0.0
RAMP = 8  # steps in which a motion gathers speed, and in which it loses it
SETTLE = 22  # steps without a detour before something is touched
HORIZON = 400


@dataclass(frozen=True)
class Waypoint:
    """Where a tool centre point shall be at step t."""

    t: int
    position: np.ndarray  # (3,) m, world frame
    rotation: np.ndarray  # (4,) unit quaternion w, x, y, z, world frame
    gripper: float  # opening, 0 closed … 1 open
    straight: bool = False  # get here in a straight line: something is or will be touched
    unperturbed_steps: int | None = None  # no perturbation in so many steps before t; None: in none, if straight


Plan = dict[str, list[Waypoint]]
"""Arm → waypoints in order of time; the home pose at step 0 is put before them."""


def tool_rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Quaternion of a tool that points along x, turned by roll about x, then pitched down, then yawed; degrees."""
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.radians([yaw, pitch, roll]), "zyx")
    return quaternion


# A tool that points straight down leaves forearm and wrist in the arm's own plane wherever the object lies: one smooth
# family of poses. Pitched by 60°, as in ACT's own experts, the wrist is almost singular over half of the table.
DOWN = {"left": tool_rotation(pitch=90), "right": tool_rotation(yaw=180, pitch=90)}


SIDE = {"left": tool_rotation(roll=90), "right": tool_rotation(yaw=180, roll=90)}
OUTWARDS = {"left": -1, "right": 1}
"""Where along x an arm stands."""


def plan_hand_over(env_state: np.ndarray, giver: str = "right", number: int = 0) -> Plan:
    """One arm fetches the cube, of several that with this number, and offers it in the middle; the other one, turned by
    90°, takes it from there."""
    receiver, out = OTHER[giver], OUTWARDS[giver]
    cube = np.array([*env_state[7 * number : 7 * number + 2], 0.02])
    meeting = np.array([0.0, 0.5, 0.25])
    grasp = cube + [0.0, 0.0, 0.015]
    offered = meeting - [0.0, 0.0, 0.015]  # where the cube is when the giving hand is at the meeting point
    down, side = DOWN[giver], SIDE[receiver]
    return {
        giver: [
            Waypoint(70, grasp + [0, 0, 0.08], down, OPEN),
            Waypoint(105, grasp, down, OPEN, straight=True, unperturbed_steps=SETTLE),
            Waypoint(120, grasp, down, CLOSED, straight=True),
            Waypoint(148, grasp + [0, 0, 0.08], down, CLOSED, straight=True),
            Waypoint(205, meeting, down, CLOSED, unperturbed_steps=SETTLE),
            Waypoint(256, meeting, down, CLOSED, straight=True),
            Waypoint(276, meeting, down, OPEN, straight=True),
            Waypoint(316, meeting + [0.10 * out, 0, 0.06], down, OPEN, straight=True),
        ],
        receiver: [
            Waypoint(110, offered + [-0.16 * out, 0, 0], side, OPEN),
            Waypoint(200, offered + [-0.09 * out, 0, 0], side, OPEN, unperturbed_steps=SETTLE),
            Waypoint(240, offered, side, OPEN, straight=True),
            Waypoint(256, offered, side, CLOSED, straight=True),
            Waypoint(276, offered, side, CLOSED, straight=True),
            Waypoint(326, offered + [-0.10 * out, 0, 0.02], side, CLOSED, straight=True),
        ],
    }


def plan_insertion(env_state: np.ndarray) -> Plan:
    """Each arm fetches its part; they meet in mid-air and push the peg into the socket.

    The hands hold the outer halves of the parts and end 40 mm closer to each other than the parts allow, so that the
    peg seats, and no hand touches the other's part, even if both are grasped 20 mm off on either side: an imitator
    has this much room for its mistakes.
    """
    meeting = np.array([0.0, 0.5, 0.15])
    away = {"right": np.array([1.0, 0, 0]), "left": np.array([-1.0, 0, 0])}  # from the partner, along the parts
    # Where the tool is when it closes: beside the middle of its part, and so far above that it clears the table.
    tool = {"right": 0.03 * away["right"] + [0, 0, 0.030], "left": 0.02 * away["left"] + [0, 0, 0.032]}
    above = {"right": np.array([0, 0, 0.020]), "left": np.array([0, 0, 0.010])}  # the parts' middles are level then
    parts = {"right": np.array([*env_state[0:2], 0]), "left": np.array([*env_state[7:9], 0])}
    plan: Plan = {}
    for arm in ARMS:
        grasp, rotation = parts[arm] + tool[arm], DOWN[arm]
        plan[arm] = [
            Waypoint(85, grasp + [0, 0, 0.08], rotation, OPEN),
            Waypoint(125, grasp, rotation, OPEN, straight=True, unperturbed_steps=SETTLE),
            Waypoint(141, grasp, rotation, CLOSED, straight=True),
            Waypoint(170, grasp + [0, 0, 0.08], rotation, CLOSED, straight=True),
            Waypoint(230, meeting + above[arm] + 0.125 * away[arm], rotation, CLOSED),
            Waypoint(325, meeting + above[arm] + 0.055 * away[arm], rotation, CLOSED, straight=True),
        ]
    return plan


def plan_lift_tray(env_state: np.ndarray) -> Plan:
    """Both arms grasp the handles from above at the same time and lift them together."""
    tray, plan = np.array([*env_state[:2], 0.0]), Plan()
    for arm in ARMS:
        grasp, down = tray + [0.18 * OUTWARDS[arm], 0, 0.034], DOWN[arm]
        plan[arm] = [
            Waypoint(80, grasp + [0, 0, 0.08], down, OPEN),
            Waypoint(115, grasp, down, OPEN, straight=True, unperturbed_steps=SETTLE),
            Waypoint(131, grasp, down, CLOSED, straight=True),
            Waypoint(146, grasp, down, CLOSED, straight=True),
            Waypoint(246, grasp + [0, 0, 0.16], down, CLOSED, straight=True),
        ]
    return plan


def plan_stack(env_state: np.ndarray, first: str = "right") -> Plan:
    """Both arms fetch their blocks; one puts its own on the mark and makes room, then the other one follows."""
    blocks = {arm: np.array([*env_state[7 * i : 7 * i + 2], 0.022]) for i, arm in enumerate(ARMS)}
    mark, plan = np.array([0.0, 0.5, 0.022]), Plan()
    for arm in ARMS:
        down, out = DOWN[arm], np.array([OUTWARDS[arm], 0, 0])
        height = [0, 0, 0 if arm == first else 0.045]
        grasp, put = blocks[arm] + [0, 0, 0.013], mark + [0, 0, 0.014] + height
        t = 0 if arm == first else 95  # steps that it comes later
        plan[arm] = [
            Waypoint(65, grasp + [0, 0, 0.08], down, OPEN),
            Waypoint(95, grasp, down, OPEN, straight=True, unperturbed_steps=SETTLE),
            Waypoint(110, grasp, down, CLOSED, straight=True),
            Waypoint(135, grasp + [0, 0, 0.08], down, CLOSED, straight=True),
            *([] if arm == first else [Waypoint(180, mark + 0.15 * out + [0, 0, 0.18], down, CLOSED)]),
            Waypoint(185 + t, put + [0, 0, 0.08], down, CLOSED, unperturbed_steps=SETTLE if arm == first else t),
            Waypoint(220 + t, put, down, CLOSED, straight=True),
            Waypoint(234 + t, put, down, OPEN, straight=True),
            Waypoint(256 + t, put + [0, 0, 0.09], down, OPEN, straight=True),
            Waypoint(281 + t, mark + 0.16 * out + [0, 0, 0.2], down, OPEN, straight=True),
        ]
    return plan


BOWL_MEETING = np.array([-0.02, 0.5, 0.14])  # m, where the middle of the bowl's floor is held
CUP_ABOVE = np.array([-0.02, -0.062, 0.15])  # m from there: the tool at the cup, whose mouth then comes over it
PITCH_AT_CUP = 15.0  # degrees that the hand points down, so that its wrist stays clear of the table


def plan_tip(env_state: np.ndarray) -> Plan:
    """The left arm holds the bowl out by its handle; the right one turns the cup about its tool, above and beside."""
    cup, bowl = np.array([*env_state[:2], 0.0]), np.array([*env_state[7:9], 0.0])
    down, held = DOWN["left"], tool_rotation(yaw=180, pitch=PITCH_AT_CUP)
    level, tilted, turned = (tool_rotation(yaw=180, roll=roll) for roll in (0, 85, 170))
    grasp, handle = cup + [0.004, 0, 0.048], bowl + [-0.1, 0, 0.034]
    angle = np.radians(PITCH_AT_CUP)
    back = np.array([np.cos(angle), 0, np.sin(angle)])  # along the tool
    return {
        "right": [
            Waypoint(80, grasp + 0.08 * back, held, OPEN, unperturbed_steps=2 * SETTLE),
            Waypoint(115, grasp, held, OPEN, straight=True, unperturbed_steps=SETTLE),
            Waypoint(131, grasp, held, CLOSED, straight=True),
            Waypoint(165, grasp + [0, 0, 0.12], level, CLOSED, straight=True),
            Waypoint(225, BOWL_MEETING + CUP_ABOVE, level, CLOSED, straight=True),
            Waypoint(270, BOWL_MEETING + CUP_ABOVE, tilted, CLOSED, straight=True),
            Waypoint(310, BOWL_MEETING + CUP_ABOVE, turned, CLOSED, straight=True),
        ],
        "left": [
            Waypoint(80, handle + [0, 0, 0.08], down, OPEN),
            Waypoint(115, handle, down, OPEN, straight=True, unperturbed_steps=SETTLE),
            Waypoint(131, handle, down, CLOSED, straight=True),
            Waypoint(165, handle + [0, 0, 0.08], down, CLOSED, straight=True),
            Waypoint(215, BOWL_MEETING + [-0.1, 0, 0.034], down, CLOSED, straight=True),
        ],
    }


PLANS: dict[str, dict[str, Callable[[np.ndarray], Plan]]] = {
    "BimanualTransferCube-v0": {"": plan_hand_over},
    "BimanualInsertion-v0": {"": plan_insertion},
    "BimanualHandOver-v0": {giver: partial(plan_hand_over, giver=giver) for giver in ARMS},
    "BimanualGiveCube-v0": {
        f"{colour}_{giver}": partial(plan_hand_over, giver=giver, number=i)
        for i, colour in enumerate(COLOURS)
        for giver in ARMS
    },
    "BimanualLiftTray-v0": {"": plan_lift_tray},
    "BimanualStack-v0": {first: partial(plan_stack, first=first) for first in ARMS},
    "BimanualTip-v0": {"": plan_tip},
}
"""Task → the ways to do it → the plan; "" where there is one way."""


class ScriptedExpert:
    """An agent that follows the task's plan.

    Args:
        env_id: the task, by its Gymnasium id.
        noise: standard deviation of the detours in metres; 0.02 to 0.05 is useful, 0 is the plain expert.

    Attributes:
        intended: (N, 14) what the last call would have commanded without detours.
        length: steps of an episode.
        variants: of the present episodes, "" where the task has one. Where it has several, chance decides.

    Raises:
        ValueError: no expert for this environment.
    """

    cameras: tuple[str, ...] = ()
    intended: np.ndarray | None = None
    length = HORIZON

    def __init__(self, env_id: str, noise: float = 0.0):
        if env_id not in PLANS:
            raise ValueError(f"there is no scripted expert for {env_id!r}; there are for: {', '.join(PLANS)}")
        self.plans, self.noise, self.ik = PLANS[env_id], noise, BimanualIK()
        self.variants: list[str] = []

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        self.variants = [choose_variant(self.plans, seed) for seed in seeds]
        given = zip(seeds, observation["env_state"], self.variants, strict=True)
        episodes = [self.commands(*each) for each in given]
        self._commands, self._intentions = (
            np.stack(each, axis=1) for each in zip(*episodes, strict=True)
        )  # (T, N, 14)
        self._t = 0

    def needs_images(self) -> bool:
        return False

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        t = min(self._t, len(self._commands) - 1)
        self._t, self.intended = t + 1, self._intentions[t]
        return self._commands[t]

    def commands(self, seed: int, env_state: np.ndarray, variant: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A whole episode from the object poses at its start: what is commanded, and what would be without detours.

        Both are (T, 14) float32.
        """
        variant = choose_variant(self.plans, seed) if variant is None else variant
        plan = self.plans[variant](env_state.astype(np.float64))
        # A stream of its own, so that the detours do not repeat the numbers that placed the objects.
        rng = np.random.default_rng([seed, 0xDE])
        commanded, intended = [], []
        for arm in ARMS:
            joints, gripper, free = self._path(arm, plan[arm])
            intended += [joints, gripper[:, None]]
            if self.noise > 0:
                offsets = perturbations(rng, self.noise, free)
                joints = np.stack([self.ik.nudge(arm, *each) for each in zip(joints, offsets, strict=True)])
            commanded += [joints, gripper[:, None]]
        commands, intentions = (np.concatenate(c, axis=1).astype(np.float32) for c in (commanded, intended))
        return commands, intentions

    def _path(self, arm: str, waypoints: list[Waypoint]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joints (T, 6), gripper openings (T,), and whether a detour is allowed (T,), at every step."""
        joints, gripper = np.empty((HORIZON, 6)), np.empty(HORIZON)
        free = np.zeros(HORIZON, dtype=bool)
        t, at = 0, np.array(HOME_ARM)
        position, rotation = self.ik.forward(arm, at)
        opening = HOME_GRIPPER
        for waypoint in waypoints:
            steps = np.arange(t, waypoint.t)
            # Step t commands where to be at t + 1.
            s = progress(len(steps))
            goal = quaternion_matrix(waypoint.rotation)
            if waypoint.straight:
                start, turn = at, rotation_vector(goal @ rotation.T)
                for step, share in zip(steps, s, strict=True):
                    towards = (1 - share) * position + share * waypoint.position
                    start = self._solve(arm, towards, rotation_matrix(share * turn) @ rotation, start)
                    joints[step] = start
                at = start
            else:
                end = self._solve(arm, waypoint.position, goal, at)
                joints[steps] = at + s[:, None] * (end - at)
                at = end
            unperturbed = waypoint.unperturbed_steps
            if unperturbed is None:
                unperturbed = len(steps) if waypoint.straight else 0
            free[t : waypoint.t - unperturbed] = True
            gripper[steps] = opening + s * (waypoint.gripper - opening)
            t, position, rotation, opening = waypoint.t, waypoint.position, goal, waypoint.gripper
        joints[t:], gripper[t:] = at, opening
        return joints, gripper, free

    def _solve(self, arm: str, position: np.ndarray, rotation: np.ndarray, start: np.ndarray) -> np.ndarray:
        joints, miss, turn = self.ik.solve(arm, position, rotation, start)
        if miss > 2e-3 or turn > 2e-2:
            raise ValueError(f"the {arm} arm cannot reach {position}: it misses by {miss * 1e3:.1f} mm, {turn:.3f} rad")
        return joints


def choose_variant(variants: Mapping[str, object], seed: int) -> str:
    """Which way an episode goes, each as often as the others. By a stream of its own, so that nothing else changes."""
    return list(variants)[np.random.default_rng([seed, 0x3A]).integers(len(variants))]


def progress(steps: int) -> np.ndarray:
    """Share of the way done after each of `steps` steps, (steps,), the last one 1: a trapezoid of speed."""
    i = np.arange(steps) + 0.5
    speed = np.minimum(1.0, np.minimum(i, steps - i) / RAMP)
    return speed.cumsum() / speed.sum()


def perturbations(rng: np.random.Generator, size: float, allowed: np.ndarray) -> np.ndarray:
    """Smooth random bumps (T, 3) in m, one after the other, each zero at its ends and only where `allowed` (T,)."""
    offset = np.zeros((len(allowed), 3))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], allowed.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        t = start
        while stop - t >= 20:
            duration = min(int(rng.integers(20, 50)), stop - t)
            bump = np.sin(np.pi * np.arange(duration) / duration) ** 2
            offset[t : t + duration] = bump[:, None] * rng.normal(0.0, size, 3) * [1, 1, 0.5]
            t += duration
    offset[:, 2] = np.abs(offset[:, 2])  # upwards: the table is below
    return offset
