"""Which joints form an arm, and which of them is its gripper, read off the names of the joints."""

import re
from collections.abc import Sequence

GRIPPER = re.compile(r"gripper|finger|jaw|claw|(?<![a-z])hand(?![a-z])", re.I)
SIDE = re.compile(r"(?:^|[_./: -])(left|right|l|r|robot\d+|arm\d+)(?=[_./: -]|$)", re.I)


def find_arms(joint_names: Sequence[str]) -> list[tuple[str, tuple[int, ...], int | None]]:
    """(name, columns of the joints, column of the gripper) of each arm, in order.

    Grippers are the joints whose names contain gripper, finger, jaw, claw or hand; the first finger of an arm stands
    for all. Left and right (l and r, robot0 and robot1, arm1 and arm2) in the names of the other joints tell arms
    apart. Without such sides an arm is the joints between two grippers and the gripper that follows them. Names
    without gripper and side give no arms.
    """
    grips = [bool(GRIPPER.search(name)) for name in joint_names]
    found = [SIDE.search(name) for name in joint_names]
    sides = [match[1].lower() if match else None for match in found]
    known = {side for side, grip in zip(sides, grips, strict=True) if not grip} - {None}
    owners = _by_side(sides, grips, known) if known else _by_block(grips)
    arms = []
    for owner in dict.fromkeys(each for each in owners if each is not None):
        own = [i for i, each in enumerate(owners) if each == owner]
        joints, gripper = tuple(i for i in own if not grips[i]), next((i for i in own if grips[i]), None)
        if joints and (known or gripper is not None):
            arms.append(({"l": "left", "r": "right"}.get(owner, owner), joints, gripper))
    return arms


def _by_side(sides: list[str | None], grips: list[bool], known: set[str | None]) -> list[str | None]:
    """The side of each joint; a gripper whose name has none of the `known` ones goes with the arm before it."""
    owners, before = [], None
    for side, grip in zip(sides, grips, strict=True):
        owner = side if side in known else before if grip else None
        before = owner or before
        owners.append(owner)
    return owners


def _by_block(grips: list[bool]) -> list[str]:
    """The arm of each joint: a new one begins behind a gripper, unless no joint has come yet."""
    owners, number, joints = [], 0, False
    for before, grip in zip([False, *grips], grips, strict=False):
        if before and not grip and joints:
            number, joints = number + 1, False
        joints |= not grip
        owners.append(f"arm{number}")
    return owners
