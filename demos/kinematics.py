"""Where the tools are: forward kinematics of ALOHA's arms in closed form, for whole episodes at once.

Needs no simulator, so that demonstrations can be read for what they tell about places (`act.keyframes`). Link lengths:
the ViperX 300 6-DoF of https://github.com/tonyzhaozh/act (assets/vx300s_left.xml), tool centre between the fingertips.
"""

from collections.abc import Sequence

import numpy as np

from demos.spec import ALOHA_JOINTS

SHOULDER = 0.079 + 0.04805  # m above the table: the shoulder's axis
BASE_DISTANCE = 0.469  # m from a base to the middle of the table
UPPER_ARM = np.array([0.05955, 0.0, 0.3])
FOREARM = np.array([0.2 + 0.1, 0.0, 0.0])
HAND = np.array([0.069744 + 0.135, 0.0, 0.0])
GRIPPER_RANGE = ((0.021 - 0.01844) / 0.03956, (0.057 - 0.01844) / 0.03956)
"""What simulated grippers reach, 0 closed … 1 open: the finger joint's range in m, (x - closed) / (open - closed)."""


def knows(joint_names: Sequence[str]) -> bool:
    """Whether these are the joints of the arms that this module knows."""
    return tuple(joint_names) == tuple(ALOHA_JOINTS)


def tool_positions(joints: np.ndarray) -> np.ndarray:
    """Tool centre points of both arms, each in the frame of its own base: (..., 14) rad → (..., 6) m, left arm first.

    A base's x points ahead, towards the other arm, and z upwards.
    """
    return np.concatenate([_tool(joints[..., :6]), _tool(joints[..., 7:13])], axis=-1)


def _tool(joints: np.ndarray) -> np.ndarray:
    """(..., 6) rad → (..., 3) m. The last joint turns the tool about its own axis and moves it nowhere."""
    waist, shoulder, elbow, roll, wrist, _ = np.moveaxis(joints, -1, 0)
    hand = _turn("x", roll, FOREARM + _turn("y", wrist, HAND))
    return _turn("z", waist, [0, 0, SHOULDER] + _turn("y", shoulder, UPPER_ARM + _turn("y", elbow, hand)))


def _turn(axis: str, angle: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) turned about an axis by angles (...) in rad."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    turned = np.array(np.broadcast_to(vector, (*angle.shape, 3)), dtype=np.float64)
    a, b = turned[..., i].copy(), turned[..., j].copy()
    turned[..., i], turned[..., j] = np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b
    return turned
