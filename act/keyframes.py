"""Names of before for `demos.hindsight`, for one version: for absolute joint positions, robots by joint names."""

from collections.abc import Sequence

import numpy as np

from act.grippers import arms_of as arms_of
from act.grippers import spec_of
from demos import hindsight
from demos.grasps import FailedGrasp
from demos.robot import Robot

SETTLES = 10  # steps at 50 Hz


def as_meant(
    action: np.ndarray,
    qpos: np.ndarray,
    robot: Robot | Sequence[str],
    failed: Sequence[FailedGrasp] | None = None,
) -> np.ndarray:
    return hindsight.without_failed_grasps(action, qpos, spec_of(robot), failed)


def meant_steps(
    action: np.ndarray,
    qpos: np.ndarray,
    robot: Robot | Sequence[str],
    failed: Sequence[FailedGrasp] | None = None,
) -> np.ndarray:
    return hindsight.intended_mask(action, qpos, spec_of(robot), failed)


def keyframe_dim(robot: Robot | Sequence[str]) -> int:
    return hindsight.keyframe_dim(spec_of(robot).robot)


def keyframes(
    action: np.ndarray, qpos: np.ndarray, robot: Robot | Sequence[str], from_grasp: bool = False
) -> np.ndarray:
    return hindsight.keyframes(action, qpos, spec_of(robot), from_grasp)


def moving_steps(action: np.ndarray, robot: Robot | Sequence[str], keep_end: int) -> np.ndarray:
    return hindsight.active_steps(action, action, spec_of(robot), keep_end)
