"""Bringing tools to places: ALOHA's kinematics (`demos.kinematics`) with derivatives, for whole batches on any device.

No matrix products, which autocast would round to bfloat16: half a millimetre matters here.
"""

import torch
from torch import Tensor

from demos.kinematics import FOREARM, HAND, SHOULDER, UPPER_ARM

AXES = {"x": 0, "y": 1, "z": 2}
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


def tools(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tools are, each in the frame of its own base, and how they move with each joint.

    (..., 14) rad, left arm first → (..., 2, 3) m and (..., 2, 6, 3) m/rad.
    """
    q = joints.unflatten(-1, (2, 7))
    tip = torch.tensor(HAND.tolist(), dtype=q.dtype, device=q.device).expand(*q.shape[:-1], 3)
    moves: dict[int, Tensor] = {5: torch.zeros_like(tip)}  # the last joint turns the tool about its own axis
    for axis, joint, link in CHAIN:
        tip = _turned(axis, q[..., joint], tip)
        moves = {i: _turned(axis, q[..., joint], move) for i, move in moves.items()}
        unit = torch.zeros_like(tip)
        unit[..., AXES[axis]] = 1
        moves[joint] = torch.linalg.cross(unit, tip)
        if link is not None:
            tip = tip + torch.tensor(link, dtype=q.dtype, device=q.device)
    return tip, torch.stack([moves[i] for i in range(6)], dim=-2)


def reach(joints: Tensor, places: Tensor) -> Tensor:
    """The joints (..., 14) rad nearest to the given ones that bring the tools to `places`, (..., 2, 3) m.

    Damped least squares on the positions alone: the tools may turn a little.
    """
    for _ in range(STEPS):
        at, jacobian = tools(joints)
        a, b, c = ((jacobian[..., :, None, i] * jacobian).sum(dim=-2) for i in range(3))  # rows of J Jᵀ, symmetric
        unit = DAMPING**2 * torch.eye(3, dtype=joints.dtype, device=joints.device)
        a, b, c = a + unit[0], b + unit[1], c + unit[2]
        bc, ca, ab = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
        miss = places - at
        solved = (miss[..., :1] * bc + miss[..., 1:2] * ca + miss[..., 2:] * ab) / (a * bc).sum(dim=-1, keepdim=True)
        change = (jacobian * solved[..., None, :]).sum(dim=-1)
        joints = joints + torch.nn.functional.pad(change, (0, 1)).flatten(-2)
    return joints


def _turned(axis: str, angle: Tensor, vector: Tensor) -> Tensor:
    """Vectors (..., 3) turned about an axis by angles (...) in rad."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin, parts = angle.cos(), angle.sin(), list(vector.unbind(-1))
    parts[i], parts[j] = cos * parts[i] - sin * parts[j], sin * parts[i] + cos * parts[j]
    return torch.stack(parts, dim=-1)
