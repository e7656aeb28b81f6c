"""Orientations of a tool in grasps, and the openings of its gripper.

A quaternion is (4,), w, x, y, z, world frame. The tool's x axis points ahead of it, y runs along the finger slides.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import numpy as np

from envs.aloha import ARMS
from envs.gl import mujoco

OPEN, CLOSED = 1.0, 0.0
OUTWARDS = {"left": -1, "right": 1}
"""The sign of the x coordinate of an arm's base."""
PUBLISHED_PITCH = 60.0
"""Degrees that the tool points down in ACT's scripted_policy.py."""


def tool_rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Quaternion of a tool that points along x, rolled about x, then pitched down, then yawed; degrees."""
    quaternion = np.zeros(4)
    mujoco.mju_euler2Quat(quaternion, np.radians([yaw, pitch, roll]), "zyx")
    return quaternion


def pitched(arm: str, pitch: float = PUBLISHED_PITCH) -> np.ndarray:
    """Quaternion of a tool that points away from its base, and down by `pitch` degrees."""
    return tool_rotation(yaw=180.0 if arm == "right" else 0.0, pitch=pitch)


# A tool that points straight down leaves forearm and wrist in the arm's own plane wherever the object lies: one smooth
# family of joint positions. Pitched by 60°, as in ACT's own scripts, the wrist is almost singular over half the table.
DOWN = {arm: pitched(arm, 90) for arm in ARMS}
LEVEL = {arm: pitched(arm, 0) for arm in ARMS}
SIDE = {"left": tool_rotation(roll=90), "right": tool_rotation(yaw=180, roll=90)}
