"""What an operator does, move by move, and how moves become commands.

A script is a plan that has no clock yet: each arm has moves of its own until the arms meet, and from there on moves
that both make together. How long a move takes, what is inserted between two of them and how far the tool strays are
the operator's traits (`demos.operators`); carried out without any, a script is ACT's own scripted policy, with the
timings and offsets of its public code (`scripted_policy.py`): tools pitched down by 60° to pick, poses between two
waypoints on straight lines at constant speed, gripper openings linear in time. What departs from it:

- The arms are position-controlled and follow inverse kinematics; the original dragged them with mocap welds.
- In insertion the hands end at x ±0.04 instead of ±0.05, where the peg stops 1 mm short of the pin: people push
  until it gives no more.
- No joint moves faster than 4 rad/s: near the stretched wrist, where a straight line asks for more, it lags a little.
- Who arrives first at the meeting waits for the other. Without traits both arrive at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np

from demos.experts import (
    BOWL_MEETING,
    CLOSED,
    CUP_ABOVE,
    OPEN,
    OUTWARDS,
    PITCH_AT_CUP,
    SIDE,
    tool_rotation,
)
from demos.ik import BimanualIK, quaternion_matrix, rotation_matrix, rotation_vector
from envs.aloha import ARMS, HOME_ARM, HOME_GRIPPER, OTHER
from envs.give_cube import COLOURS

Kind = Literal["home", "free", "over", "reach", "close", "touch", "wait"]
MAX_CHANGE = 4 / 50  # rad that a joint may move in a step
PITCH = 60.0  # degrees that the published tool points down


@dataclass(frozen=True)
class Move:
    """One motion of a tool, from wherever it is to a pose.

    Kinds tell the traits what they may do: "free" ends in the air, "over" above the object, "reach" beside its
    surface, "close" holding it, "touch" where the other hand or its part is, "wait" where it began.
    """

    kind: Kind
    steps: float  # how long it takes
    position: np.ndarray  # (3,) m, world frame: where the tool centre point ends
    rotation: np.ndarray  # (4,) unit quaternion w, x, y, z, world frame
    gripper: float  # opening in the end, 0 closed … 1 open
    busy: bool = False  # the next move must follow at once


@dataclass(frozen=True)
class Script:
    """Arm → its moves until the meeting, the first one being the home pose; and arm → those that both make together.

    The k-th moves of both arms in `together` take equally long.
    """

    alone: dict[str, list[Move]]
    together: dict[str, list[Move]]
    drift: dict[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    """Arm → a function of how freely the tool may drift at each step, (T,) 0 to 1, to how far it does, (T, 3) m."""


def pause(after: Move, steps: float) -> Move:
    """Standing still where a move ended."""
    return replace(after, kind="wait", steps=steps, busy=False)


def length(moves: list[Move]) -> float:
    """Steps that moves take, one after the other."""
    return sum(move.steps for move in moves)


def script_hand_over(env_state: np.ndarray, home: dict[str, Move], giver: str = "right", number: int = 0) -> Script:
    """Published waypoints, giver (right): 90, 130, 170, 200 | 220, 310, 360; receiver: 100, 260, 310, 360; end at 400.

    They meet at step 200. The receiver is then on its way from 0.10 m before the meeting point to 0.02 m beyond it.
    """
    receiver, out = OTHER[giver], OUTWARDS[giver]
    cube, meeting = env_state[7 * number : 7 * number + 3], np.array([0.0, 0.5, 0.25])
    pick, side, level = picking(giver), SIDE[receiver], picking(receiver, pitch=0)
    near, taking, clear = (meeting + [x * out, 0, -0.02] for x in (-0.1, 0.02, -0.1))
    back = meeting + [0.1 * out, 0, 0]
    giving = [
        home[giver],
        Move("over", 90, cube + [0, 0, 0.08], pick, OPEN),
        Move("reach", 40, cube + [0, 0, -0.015], pick, OPEN),
        Move("close", 40, cube + [0, 0, -0.015], pick, CLOSED),
        Move("free", 30, meeting + [0.05 * out, 0, 0], pick, CLOSED),
    ]
    receiving = [
        home[receiver],
        Move("free", 100, near, side, OPEN),
        Move("free", 100, near + 100 / 160 * (taking - near), side, OPEN),
    ]
    # The giving hand opens from 220 to 310, which the receiving hand's waypoint at 260 cuts in two.
    together = {
        giver: [
            Move("touch", 20, meeting, pick, CLOSED),
            Move("touch", 40, meeting, pick, 40 / 90, busy=True),
            Move("touch", 50, meeting, pick, OPEN),
            Move("free", 50, back, pick, OPEN),
            Move("wait", 40, back, pick, OPEN),
        ],
        receiver: [
            Move("touch", 20, near + 120 / 160 * (taking - near), side, OPEN),
            Move("touch", 40, taking, side, OPEN, busy=True),
            Move("touch", 50, taking, side, CLOSED),
            Move("free", 50, clear, level, CLOSED),
            Move("wait", 40, clear, level, CLOSED),
        ],
    }
    return Script({receiver: receiving, giver: giving}, together)


def script_insertion(env_state: np.ndarray, home: dict[str, Move]) -> Script:
    """Published waypoints of both arms: 120, 170, 220, 285 | 340; end at 400. They meet at 285, 0.1 m apart."""
    meeting, lift = np.array([0.0, 0.5, 0.15]), {"left": 0.0, "right": 0.00715}
    parts, outwards = {"right": env_state[0:3], "left": env_state[7:10]}, {"left": -1, "right": 1}
    alone, together = {}, {}
    for arm in ARMS:
        part, pick = parts[arm], picking(arm)
        apart, inserted = (meeting + [outwards[arm] * x, 0, lift[arm]] for x in (0.1, 0.04))
        alone[arm] = [
            home[arm],
            Move("over", 120, part + [0, 0, 0.08], pick, OPEN),
            Move("reach", 50, part + [0, 0, -0.03], pick, OPEN),
            Move("close", 50, part + [0, 0, -0.03], pick, CLOSED),
            Move("free", 65, apart, pick, CLOSED),
        ]
        together[arm] = [Move("touch", 55, inserted, pick, CLOSED), Move("wait", 60, inserted, pick, CLOSED)]
    return Script(alone, together)


def script_lift_tray(env_state: np.ndarray, home: dict[str, Move]) -> Script:
    """Each arm takes its handle; once both hold theirs they lift."""
    alone, together = {}, {}
    for arm in ARMS:
        handle, pick = env_state[:3] + [0.18 * OUTWARDS[arm], 0, 0.016], picking(arm)
        grasp, high = handle + [0, 0, 0.012], handle + [0, 0, 0.16]
        alone[arm] = [
            home[arm],
            Move("over", 100, grasp + [0, 0, 0.08], pick, OPEN),
            Move("reach", 40, grasp, pick, OPEN),
            Move("close", 30, grasp, pick, CLOSED),
        ]
        together[arm] = [Move("touch", 100, high, pick, CLOSED), Move("wait", 50, high, pick, CLOSED)]
    return Script(alone, together)


def script_stack(env_state: np.ndarray, home: dict[str, Move], first: str = "right") -> Script:
    """Each arm fetches its block; once both hold theirs, one after the other puts it on the mark."""
    alone, put = {}, {}
    for i, arm in enumerate(ARMS):
        block, pick, out = env_state[7 * i : 7 * i + 3], picking(arm), OUTWARDS[arm]
        grasp = np.array([block[0], block[1], 0.032])
        aside = np.array([0.17 * out, 0.5, 0.2])
        place = np.array([0.0, 0.5, 0.033 if arm == first else 0.079])
        alone[arm] = [
            home[arm],
            Move("over", 90, grasp + [0, 0, 0.08], pick, OPEN),
            Move("reach", 40, grasp, pick, OPEN),
            Move("close", 30, grasp, pick, CLOSED),
            Move("free", 50, aside, pick, CLOSED),
        ]
        put[arm] = [
            Move("touch", 50, place + [0, 0, 0.08], pick, CLOSED),
            Move("touch", 40, place, pick, CLOSED),
            Move("touch", 25, place, pick, OPEN),
            Move("touch", 35, place + [0.02 * out, 0, 0.1], pick, OPEN),
            Move("touch", 40, aside, pick, OPEN),
        ]
    then = OTHER[first]
    together = {
        first: [*put[first], *(pause(put[first][-1], move.steps) for move in put[then])],
        then: [*(pause(alone[then][-1], move.steps) for move in put[first]), *put[then]],
    }
    return Script(alone, together)


def script_tip(env_state: np.ndarray, home: dict[str, Move]) -> Script:
    """Each arm takes its vessel to the middle; there the cup is turned about the tool that holds it."""
    cup, bowl = np.array([*env_state[:2], 0.0]), np.array([*env_state[7:9], 0.0])
    held, pick = picking("right", PITCH_AT_CUP), picking("left")
    level, tilted, turned = (tool_rotation(yaw=180, roll=roll) for roll in (0, 85, 170))
    angle = np.radians(PITCH_AT_CUP)
    back = np.array([np.cos(angle), 0, np.sin(angle)])  # along the tool
    grasp, handle, meeting = cup + [0.004, 0, 0.048], bowl + [-0.1, 0, 0.03], BOWL_MEETING
    above, out = meeting + CUP_ABOVE, meeting + [-0.1, 0, 0.03]
    alone = {
        "right": [
            home["right"],
            Move("over", 90, grasp + 0.08 * back, held, OPEN),
            Move("reach", 40, grasp, held, OPEN),
            Move("close", 30, grasp, held, CLOSED),
            Move("free", 40, grasp + [0, 0, 0.12], level, CLOSED),
            Move("free", 50, above, level, CLOSED),
        ],
        "left": [
            home["left"],
            Move("over", 90, handle + [0, 0, 0.08], pick, OPEN),
            Move("reach", 40, handle, pick, OPEN),
            Move("close", 30, handle, pick, CLOSED),
            Move("free", 40, handle + [0, 0, 0.08], pick, CLOSED),
            Move("free", 50, out, pick, CLOSED),
        ],
    }
    together = {
        "right": [
            Move("touch", 50, above, tilted, CLOSED),
            Move("touch", 45, above, turned, CLOSED),
            Move("wait", 55, above, turned, CLOSED),
        ],
        "left": [Move("wait", steps, out, pick, CLOSED) for steps in (50, 45, 55)],
    }
    return Script(alone, together)


SCRIPTS: dict[str, dict[str, Callable[[np.ndarray, dict[str, Move]], Script]]] = {
    "BimanualTransferCube-v0": {"": script_hand_over},
    "BimanualInsertion-v0": {"": script_insertion},
    "BimanualHandOver-v0": {giver: partial(script_hand_over, giver=giver) for giver in ARMS},
    "BimanualGiveCube-v0": {
        f"{colour}_{giver}": partial(script_hand_over, giver=giver, number=i)
        for i, colour in enumerate(COLOURS)
        for giver in ARMS
    },
    "BimanualLiftTray-v0": {"": script_lift_tray},
    "BimanualStack-v0": {first: partial(script_stack, first=first) for first in ARMS},
    "BimanualTip-v0": {"": script_tip},
}
"""Task → the ways to do it → the script; "" where there is one way."""


def picking(arm: str, pitch: float = PITCH) -> np.ndarray:
    """Quaternion (4,) of a tool that points away from its base, and down by `pitch` degrees."""
    return tool_rotation(yaw=180.0 if arm == "right" else 0.0, pitch=pitch)


def drift_scale(moves: list[Move]) -> np.ndarray:
    """How freely the tool may drift in each move, (moves,): in the air fully, near contact a little."""
    free = []
    for move in moves:
        free.append(free[-1] if move.kind == "wait" and free else float(move.kind in ("free", "over")))
    free[0] = 0.0
    return np.array(free)


class Hands:
    """Turns scripts into commands."""

    def __init__(self) -> None:
        self.ik = BimanualIK(unroll=0.02, max_steps=10)  # it follows a path: the next pose is always near

    def home(self, arm: str) -> Move:
        position, rotation = self.ik.forward(arm, np.array(HOME_ARM))
        vector = rotation_vector(rotation)
        angle = float(np.linalg.norm(vector))
        axis = vector / (angle or 1.0)
        quaternion = np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)])
        return Move("home", 0, position, quaternion, HOME_GRIPPER)

    def carry_out(self, script: Script) -> np.ndarray:
        """Commands (T, 14) float32 of a whole episode, as long as its moves."""
        meeting = max(length(moves) for moves in script.alone.values())
        steps = round(meeting + length(script.together["left"]))
        columns = []
        for arm in ARMS:
            moves = script.alone[arm]
            waiting = pause(moves[-1], meeting - length(moves))
            moves = [*moves, waiting, *script.together[arm]]
            columns.append(self._commands(arm, moves, steps, script.drift.get(arm)))
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _commands(self, arm: str, moves: list[Move], steps: int, drift: Callable | None) -> np.ndarray:
        """Joints and gripper (steps, 7) of one arm; it starts at the first of its moves."""
        ends = np.cumsum([move.steps for move in moves])
        # Step t commands where to be at t + 1.
        now = np.arange(1, steps + 1)
        index = np.minimum(np.searchsorted(ends, now), len(moves) - 1)
        index = np.maximum(index, 1)
        share = 1 - (ends[index] - now) / np.maximum([moves[i].steps for i in index], 1e-9)
        share = np.clip(share, 0, 1)[:, None]
        positions, openings = np.stack([m.position for m in moves]), np.array([[m.gripper] for m in moves])
        path = (1 - share) * positions[index - 1] + share * positions[index]
        gripper = (1 - share) * openings[index - 1] + share * openings[index]
        if drift is not None:
            path = path + drift(drift_scale(moves)[index])
        rotations = [quaternion_matrix(move.rotation) for move in moves]
        turns = [np.zeros(3), *(rotation_vector(b @ a.T) for a, b in pairwise(rotations))]
        at, joints = np.array(HOME_ARM), np.empty((len(now), 6))
        before, solved = (path[0] * np.nan, -1, -1.0), at
        for t, i in enumerate(index):
            goal = (path[t], i if turns[i].any() else -1, share[t, 0] if turns[i].any() else -1.0)
            if not (np.array_equal(goal[0], before[0]) and goal[1:] == before[1:]):
                rotation = rotation_matrix(share[t, 0] * turns[i]) @ rotations[i - 1]
                solved, _, _ = self.ik.solve(arm, path[t], rotation, at)
                before = goal
            at = at + np.clip(solved - at, -MAX_CHANGE, MAX_CHANGE)
            joints[t] = at
        return np.concatenate([joints, gripper], axis=1)
