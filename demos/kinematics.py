"""Forward kinematics in numpy, for whole episodes at once: where each arm's tool is. Needs no simulator.

`act.kinematics` has the same in torch, with Jacobian and inverse.
"""

from collections.abc import Sequence

import numpy as np

from demos.robot import ALOHA, ALOHA_JOINTS, Chain, Robot

BASE_DISTANCE = 0.469  # m from a base of ALOHA to the middle of its table
PLANES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
"""Axis → the two others, in the order of a positive turn."""


def forward_kinematics(robot: Robot, joints: np.ndarray) -> np.ndarray:
    """Tool centre points, each in the frame of its arm's base: (..., J) as in qpos → (..., arms, 3) m.

    Columns beyond those of the robot are ignored.

    Raises:
        ValueError: the chain of an arm is not known.
    """
    if not robot.has_kinematics:
        raise ValueError("the robot's chains are not known")
    tools = [_tool(robot, arm.chain, joints) for arm in robot.arms if arm.chain is not None]
    return np.stack(tools, axis=-2)


def _tool(robot: Robot, chain: Chain, joints: np.ndarray) -> np.ndarray:
    """(..., J) → (..., 3) m. From the tool back to the base: each joint moves all that comes after it."""
    point: np.ndarray = np.array(chain.tool)
    for link in reversed(chain.links):
        value, (scale, offset) = joints[..., link.joint], robot.to_si(link.joint)
        value = value if (scale, offset) == (1, 0) else value * scale + offset
        value, axis = (-value, link.axis[1]) if link.axis[0] == "-" else (value, link.axis)
        if link.slides:
            point = np.array(np.broadcast_to(point, (*value.shape, 3)), dtype=np.float64)
            point[..., "xyz".index(axis)] += value
        elif point.ndim > 1 or any(point[list(PLANES[axis])]):  # a point on the axis stays where it is
            point = _turn(axis, value, point)
        if link.rotation != (1, 0, 0, 0):
            point = point @ rotation_matrix(link.rotation).T
        if any(link.offset):
            point = np.array(link.offset) + point
    return np.array(np.broadcast_to(point, (*joints.shape[:-1], 3)), dtype=np.float64)


def rotation_matrix(quaternion: Sequence[float] | np.ndarray) -> np.ndarray:
    """(3, 3) of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turn(axis: str, angle: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) turned about an axis by angles (...) in rad."""
    i, j = PLANES[axis]
    turned = np.array(np.broadcast_to(vector, (*angle.shape, 3)), dtype=np.float64)
    a, b = turned[..., i].copy(), turned[..., j].copy()
    turned[..., i], turned[..., j] = np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b
    return turned


# Names of before, for ALOHA alone.


def knows(joint_names: Sequence[str]) -> bool:
    """Whether these are ALOHA's joints."""
    return tuple(joint_names) == ALOHA_JOINTS


def tool_positions(joints: np.ndarray) -> np.ndarray:
    """ALOHA's tool centre points: (..., 14) rad → (..., 6) m, left arm first."""
    return forward_kinematics(ALOHA, joints).reshape(*joints.shape[:-1], 6)
