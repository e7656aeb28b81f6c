"""Bringing tools to places: ALOHA's kinematics (`demos.kinematics`) with derivatives, for whole batches on any device.

No matrix products, which autocast would round to bfloat16: half a millimetre matters here.
"""

import torch
from torch import Tensor

from demos.kinematics import FOREARM, HAND, SHOULDER, UPPER_ARM

PLANES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
"""Axis → the two others, in the order of a positive turn."""

CHAIN = (
    ("y", 4, tuple(FOREARM.tolist())),
    ("x", 3, None),
    ("y", 2, tuple(UPPER_ARM.tolist())),
    ("y", 1, (0.0, 0.0, SHOULDER)),
    ("z", 0, None),
)
"""From the tool to the base: a joint's axis, its number, and the link that carries it."""

DAMPING = 0.03  # m; where a stretched arm would have to turn far to move its tool a little, it rather stays short
STEPS = 3  # of Gauss and Newton: of a centimetre one leaves 0.3 mm, three 0.1 µm, in the median

Vector = tuple[Tensor | float, Tensor | float, Tensor | float]
"""x, y, z. A tensor of constants would have to be carried to the device whenever it is used."""


def tools(joints: Tensor) -> Tensor:
    """Where the tools are, each in the frame of its own base: (..., 14) rad, left arm first → (..., 2, 3) m."""
    return _chain(joints)[0]


def moving_tools(joints: Tensor) -> tuple[Tensor, Tensor]:
    """`tools`, and how they move with each joint but the gripper, (..., 2, 6, 3) m/rad."""
    tip, moves = _chain(joints, moving=True)
    return tip, torch.stack(moves, dim=-2)


def _chain(joints: Tensor, moving: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The tools, (..., 2, 3), and if `moving` what each of six joints moves them by."""
    q = joints.unflatten(-1, (2, 7)).unbind(-1)
    tip: Vector = tuple(HAND.tolist())
    moves: dict[int, Vector] = {5: (0.0, 0.0, 0.0)}  # the last joint turns the tool about its own axis
    for axis, joint, link in CHAIN:
        cos, sin = q[joint].cos(), q[joint].sin()
        tip = _turned(axis, cos, sin, tip)
        if moving:
            moves = {i: _turned(axis, cos, sin, move) for i, move in moves.items()}
            moves[joint] = _crossed(axis, tip)
        if link is not None:
            tip = (tip[0] + link[0], tip[1] + link[1], tip[2] + link[2])
    return _stacked(tip, q[0]), [_stacked(moves[i], q[0]) for i in sorted(moves)] if moving else []


def reach(joints: Tensor, places: Tensor) -> Tensor:
    """The joints (..., 14) rad nearest to the given ones that bring the tools to `places`, (..., 2, 3) m.

    Damped least squares on the positions alone: the tools may turn a little.
    """
    for _ in range(STEPS):
        at, moves = moving_tools(joints)
        a, b, c = ((moves[..., :, None, i] * moves).sum(dim=-2) for i in range(3))  # rows of J Jᵀ, symmetric
        unit = DAMPING**2 * torch.eye(3, dtype=joints.dtype, device=joints.device)
        a, b, c = a + unit[0], b + unit[1], c + unit[2]
        bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
        miss = places - at
        solved = (miss[..., :1] * bc + miss[..., 1:2] * ca + miss[..., 2:] * ab) / (a * bc).sum(dim=-1, keepdim=True)
        change = (moves * solved[..., None, :]).sum(dim=-1)
        joints = joints + torch.nn.functional.pad(change, (0, 1)).flatten(-2)
    return joints


def _turned(axis: str, cos: Tensor, sin: Tensor, vector: Vector) -> Vector:
    """A vector turned about an axis."""
    i, j = PLANES[axis]
    parts = list(vector)
    parts[i], parts[j] = cos * vector[i] - sin * vector[j], sin * vector[i] + cos * vector[j]
    return parts[0], parts[1], parts[2]


def _crossed(axis: str, vector: Vector) -> Vector:
    """A unit vector along an axis × a vector."""
    i, j = PLANES[axis]
    parts: list[Tensor | float] = [0.0, 0.0, 0.0]
    parts[i], parts[j] = -vector[j], vector[i]
    return parts[0], parts[1], parts[2]


def _stacked(vector: Vector, like: Tensor) -> Tensor:
    """(..., 3) of three parts, which are numbers or as `like`."""
    return torch.stack([p if isinstance(p, Tensor) else torch.full_like(like, p) for p in vector], dim=-1)
