"""Forward kinematics, Jacobian and position IK in torch, for batches on any device and for the chains of any robot.

`demos.kinematics` has the forward kinematics in numpy. Constants stay Python numbers, since a tensor of constants would
have to be carried to the device whenever it is used. There are no matrix products, which autocast would round to
bfloat16: half a millimetre matters here.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from demos.kinematics import PLANES, rotation_matrix
from demos.robot import Arm, Robot

DAMPING = 0.03  # m; where a stretched arm would have to turn far to move its tool a little, it rather stays short
STEPS = 3  # of Gauss and Newton: of a centimetre one leaves 0.3 mm, three 0.1 µm, in the median

Vector = tuple[Tensor | float, Tensor | float, Tensor | float]
"""x, y, z."""


def forward_kinematics(robot: Robot, joints: Tensor) -> Tensor:
    """Tool centre points, each in the frame of its arm's base: (..., J) as in qpos → (..., arms, 3) m.

    Columns beyond those of the robot are ignored. Every arm's chain must be known.
    """
    return _all_arms(robot, joints)[0]


def forward_kinematics_and_jacobian(robot: Robot, joints: Tensor) -> tuple[Tensor, Tensor]:
    """`forward_kinematics`, and how the tools move with each joint of their arms, (..., arms, n, 3) in m per unit of
    qpos; n is the number of joints of the arm that has most, and zero beyond those of the others."""
    tips, moves = _all_arms(robot, joints, moving=True)
    assert moves is not None
    return tips, moves


def correct_to_ee_positions(robot: Robot, action: Tensor, positions: Tensor) -> Tensor:
    """The joint targets (..., A) nearest to `action` that bring the tools to `positions`, (..., arms, 3) m.

    Damped least squares on the positions alone: the tools may turn a little. The first J columns of an action are those
    of qpos; grippers, joints that two arms share and further columns stay as they are.
    """
    for _ in range(STEPS):
        at, moves = forward_kinematics_and_jacobian(robot, action)
        a, b, c = ((moves[..., :, None, i] * moves).sum(dim=-2) for i in range(3))  # rows of J Jᵀ, symmetric
        unit = DAMPING**2 * torch.eye(3, dtype=action.dtype, device=action.device)
        a, b, c = a + unit[0], b + unit[1], c + unit[2]
        bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
        miss = positions - at
        solved = (miss[..., :1] * bc + miss[..., 1:2] * ca + miss[..., 2:] * ab) / (a * bc).sum(dim=-1, keepdim=True)
        change = (moves * solved[..., None, :]).sum(dim=-1)  # (..., arms, n)
        action = action + _in_columns(robot, change, action)
    return action


def _in_columns(robot: Robot, change: Tensor, action: Tensor) -> Tensor:
    """What the arms' joints change by, (..., arms, n), in the columns of an action, (..., A)."""
    width = robot.block_width
    if width and len(robot.arms) * width == action.shape[-1]:
        return F.pad(change, (0, width - change.shape[-1])).flatten(-2)
    columns = [torch.zeros_like(action[..., 0])] * action.shape[-1]
    for i, arm in enumerate(robot.arms):
        for k, column in enumerate(arm.joints):
            columns[column] = change[..., i, k]
    return torch.stack(columns, dim=-1)


def _all_arms(robot: Robot, joints: Tensor, moving: bool = False) -> tuple[Tensor, Tensor | None]:
    """The tools, (..., arms, 3), and if `moving` what each joint moves them by, (..., arms, n, 3)."""
    width = robot.block_width
    if width and len(robot.arms) * width == joints.shape[-1]:  # all arms at once
        tip, moves = _one_arm(robot, robot.arms[0], joints.unflatten(-1, (-1, width)).unbind(-1), moving)
        return tip, torch.stack(moves, dim=-2) if moving else None
    most, columns = max(len(arm.joints) for arm in robot.arms), joints.unbind(-1)
    arms = [_one_arm(robot, arm, columns, moving) for arm in robot.arms]
    tips = torch.stack([tip for tip, _ in arms], dim=-2)
    if not moving:
        return tips, None
    nothing = torch.zeros_like(tips[..., 0, :])
    padded = [torch.stack(moves + [nothing] * (most - len(moves)), dim=-2) for _, moves in arms]
    return tips, torch.stack(padded, dim=-3)


def _one_arm(robot: Robot, arm: Arm, q: Sequence[Tensor], moving: bool) -> tuple[Tensor, list[Tensor]]:
    """A tool, (..., 3), of joints (...), and if `moving` what each of the arm's joints moves it by.

    From the tool back to the base: each joint moves all that comes after it.
    """
    assert arm.chain is not None
    tip: Vector = arm.chain.tool
    moves: dict[int, Vector] = {}
    for link in reversed(arm.chain.links):
        value, (scale, offset) = q[link.joint], robot.to_si(link.joint)
        value = value if (scale, offset) == (1, 0) else value * scale + offset
        sign, axis = (-1, link.axis[1]) if link.axis[0] == "-" else (1, link.axis)
        move: Vector = (0.0, 0.0, 0.0)
        if link.slides:
            tip = _plus(tip, axis, value if sign > 0 else -value)
            move = _plus(move, axis, float(sign))
        elif moves or not _on_axis(axis, tip):
            cos, sin = value.cos(), value.sin() if sign > 0 else -value.sin()
            moves = {i: _turned(axis, cos, sin, each) for i, each in moves.items()}
            if not _on_axis(axis, tip):
                tip = _turned(axis, cos, sin, tip)
                move = _crossed(axis, tip, sign)
        if moving and link.joint in arm.joints:
            moves[link.joint] = move if scale == 1 else _times(move, scale)
        if link.rotation != (1, 0, 0, 0):
            matrix = rotation_matrix(link.rotation).tolist()
            tip, moves = _rotated(matrix, tip), {i: _rotated(matrix, each) for i, each in moves.items()}
        if any(link.offset):
            tip = (tip[0] + link.offset[0], tip[1] + link.offset[1], tip[2] + link.offset[2])
    still: Vector = (0.0, 0.0, 0.0)
    return _stacked(tip, q[0]), [_stacked(moves.get(i, still), q[0]) for i in arm.joints] if moving else []


def _on_axis(axis: str, vector: Vector) -> bool:
    """Whether a vector is constant and along an axis, so that turning about it changes nothing."""
    return all(isinstance(vector[i], float) and vector[i] == 0 for i in PLANES[axis])


def _turned(axis: str, cos: Tensor, sin: Tensor, vector: Vector) -> Vector:
    """A vector turned about an axis."""
    i, j = PLANES[axis]
    parts = list(vector)
    parts[i], parts[j] = cos * vector[i] - sin * vector[j], sin * vector[i] + cos * vector[j]
    return parts[0], parts[1], parts[2]


def _crossed(axis: str, vector: Vector, sign: int) -> Vector:
    """A unit vector along an axis, or against it, × a vector."""
    i, j = PLANES[axis]
    parts: list[Tensor | float] = [0.0, 0.0, 0.0]
    parts[i], parts[j] = (-vector[j], vector[i]) if sign > 0 else (vector[j], -vector[i])
    return parts[0], parts[1], parts[2]


def _plus(vector: Vector, axis: str, value: Tensor | float) -> Vector:
    parts = list(vector)
    parts["xyz".index(axis)] = parts["xyz".index(axis)] + value
    return parts[0], parts[1], parts[2]


def _times(vector: Vector, scale: float) -> Vector:
    return vector[0] * scale, vector[1] * scale, vector[2] * scale


def _rotated(matrix: list[list[float]], vector: Vector) -> Vector:
    x, y, z = vector
    a, b, c = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
    return a, b, c


def _stacked(vector: Vector, like: Tensor) -> Tensor:
    """(..., 3) of three parts, which are numbers or as `like`."""
    return torch.stack([p if isinstance(p, Tensor) else torch.full_like(like, p) for p in vector], dim=-1)
