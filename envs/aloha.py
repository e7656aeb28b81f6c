"""Names and constants of the ALOHA station: two ViperX 300 arms, home pose, grippers, cameras.

Figures: ACT (Zhao et al. 2023, https://arxiv.org/abs/2304.13705) and its public simulation code, `constants.py` and
`assets/`. Joint ranges and gains stand in `assets/vx300s.xml` and are read from the model.
"""

import numpy as np

ARMS = ("left", "right")
OTHER = {"left": "right", "right": "left"}
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
JOINT_NAMES = tuple(f"{arm}_{joint}" for arm in ARMS for joint in (*ARM_JOINTS, "gripper"))
"""The layout of qpos, qvel and action: seven numbers per arm, left arm first."""

CAMERAS = ("top", "angle", "left_pillar", "right_pillar", "front_close", "left_wrist", "right_wrist")

FPS = 50
"""Control frequency in Hz; the physics runs at 500 Hz."""

HOME_ARM = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)  # rad
HOME_FINGER = 0.02239  # m

# Opening of one finger in metres, and the same normalised: 0 closed, 1 open.
FINGER_CLOSED = 0.01844
FINGER_OPEN = 0.05800
FINGER_SPAN = FINGER_OPEN - FINGER_CLOSED

HOME_GRIPPER = (HOME_FINGER - FINGER_CLOSED) / FINGER_SPAN
HOME_ACTION = np.array([*HOME_ARM, HOME_GRIPPER] * 2, dtype=np.float32)
"""The command that holds the home pose, (14,)."""


def gripper_from_finger(finger: np.ndarray | float) -> np.ndarray | float:
    """Finger position in metres → gripper opening, 0 closed … 1 open."""
    return (finger - FINGER_CLOSED) / FINGER_SPAN


def finger_from_gripper(gripper: np.ndarray | float) -> np.ndarray | float:
    """Gripper opening, 0 closed … 1 open → finger position in metres."""
    return FINGER_CLOSED + gripper * FINGER_SPAN
