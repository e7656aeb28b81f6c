"""Names of before for `demos.grasps`, for one version: for absolute joint positions, robots by joint names."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demos import grasps
from demos.grasps import FailedGrasp as FailedGrasp
from demos.grasps import gripper_events as gripper_events
from demos.robot import Robot
from demos.spec import EpisodeSpec


def spec_of(robot: Robot | Sequence[str]) -> EpisodeSpec:
    return EpisodeSpec(robot if isinstance(robot, Robot) else Robot.from_joint_names(robot), {})


def arms_of(robot: Robot | Sequence[str]) -> list[tuple[slice, int]]:
    """The columns of each arm and of its gripper."""
    arms = [arm for arm in spec_of(robot).robot.arms if arm.gripper is not None]
    return [(slice(min(arm.columns), max(arm.columns) + 1), arm.gripper) for arm in arms if arm.gripper is not None]


def closing_sign(command: np.ndarray, position: np.ndarray) -> int:
    return grasps.closing_sign(command, position, Robot(("gripper",)).steps(grasps.LAG))


def find_failed_grasps(
    action: np.ndarray,
    qpos: np.ndarray,
    robot: Robot | Sequence[str],
    gripper_range: tuple[float, float] | None = None,
) -> list[FailedGrasp]:
    spec = spec_of(robot)
    arms = tuple(replace(arm, gripper_range=gripper_range) for arm in spec.robot.arms)
    spec = replace(spec, robot=replace(spec.robot, arms=arms))
    return grasps.find_failed_grasps(action, qpos, spec, simulated=gripper_range is not None)
