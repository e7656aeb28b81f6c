"""Names of before for `act.kinematics`, for ALOHA alone."""

from torch import Tensor

from act.kinematics import correct_to_ee_positions, forward_kinematics, forward_kinematics_and_jacobian
from demos.robot import ALOHA


def tools(joints: Tensor) -> Tensor:
    return forward_kinematics(ALOHA, joints)


def moving_tools(joints: Tensor) -> tuple[Tensor, Tensor]:
    return forward_kinematics_and_jacobian(ALOHA, joints)


def reach(joints: Tensor, places: Tensor) -> Tensor:
    return correct_to_ee_positions(ALOHA, joints, places)
