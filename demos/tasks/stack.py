"""Stack: each arm fetches its block; one puts its own on the mark and makes room, then the other one follows."""

from functools import partial

import numpy as np

from demos.motion import SETTLE, SMOOTH, Motion, Segment, pause
from demos.tasks.task import Task, filled
from demos.tool_poses import CLOSED, DOWN, OPEN, OUTWARDS, pitched
from envs.aloha import ARMS, OTHER

LATER = 95  # steps by which the second arm comes later


def smooth(env_state: np.ndarray, first: str = "right") -> Motion:
    blocks = {arm: np.array([*env_state[7 * i : 7 * i + 2], 0.022]) for i, arm in enumerate(ARMS)}
    mark, segments = np.array([0.0, 0.5, 0.022]), {}
    for arm in ARMS:
        down, out = DOWN[arm], np.array([OUTWARDS[arm], 0, 0])
        height = [0, 0, 0 if arm == first else 0.045]
        grasp, put = blocks[arm] + [0, 0, 0.013], mark + [0, 0, 0.014] + height
        over = put + [0, 0, 0.08]
        if arm == first:
            carry = [Segment(50, over, down, CLOSED, path="joints", unperturbed_steps=SETTLE)]
        else:
            carry = [
                Segment(45, mark + 0.15 * out + [0, 0, 0.18], down, CLOSED, path="joints"),
                Segment(5 + LATER, over, down, CLOSED, path="joints", unperturbed_steps=LATER),
            ]
        segments[arm] = [
            Segment(65, grasp + [0, 0, 0.08], down, OPEN, "over", path="joints"),
            Segment(30, grasp, down, OPEN, "reach", unperturbed_steps=SETTLE),
            Segment(15, grasp, down, CLOSED, "close"),
            Segment(25, grasp + [0, 0, 0.08], down, CLOSED),
            *carry,
            Segment(35, put, down, CLOSED, "touch"),
            Segment(14, put, down, OPEN, "touch"),
            Segment(22, put + [0, 0, 0.09], down, OPEN, "touch"),
            Segment(25, mark + 0.16 * out + [0, 0, 0.2], down, OPEN),
        ]
    return Motion(segments, tracking=SMOOTH)


def published(env_state: np.ndarray, first: str = "right") -> Motion:
    """Each arm fetches its block; once both hold theirs, one after the other puts it on the mark."""
    alone, put = {}, {}
    for i, arm in enumerate(ARMS):
        block, pick, out = env_state[7 * i : 7 * i + 3], pitched(arm), OUTWARDS[arm]
        grasp = np.array([block[0], block[1], 0.032])
        aside = np.array([0.17 * out, 0.5, 0.2])
        place = np.array([0.0, 0.5, 0.033 if arm == first else 0.079])
        alone[arm] = [
            Segment(90, grasp + [0, 0, 0.08], pick, OPEN, "over"),
            Segment(40, grasp, pick, OPEN, "reach"),
            Segment(30, grasp, pick, CLOSED, "close"),
            Segment(50, aside, pick, CLOSED),
        ]
        put[arm] = [
            Segment(50, place + [0, 0, 0.08], pick, CLOSED, "touch"),
            Segment(40, place, pick, CLOSED, "touch"),
            Segment(25, place, pick, OPEN, "touch"),
            Segment(35, place + [0.02 * out, 0, 0.1], pick, OPEN, "touch"),
            Segment(40, aside, pick, OPEN, "touch"),
        ]
    then = OTHER[first]
    together = {
        first: [*put[first], *(pause(put[first][-1], segment.steps) for segment in put[then])],
        then: [*(pause(alone[then][-1], segment.steps) for segment in put[first]), *put[then]],
    }
    return Motion(alone, together)


PHRASES = (
    "{build|make} a tower with the FIRST block {at the bottom|below}",
    "{begin|start} the {tower|stack} with the FIRST {block|cube}",
    "the FIRST {block|cube} {comes|goes} {first|at the bottom}",
    "{put|set|place} the FIRST {block|one} down first",
    "stack {both|the two} blocks, FIRST {one|block} {lowest|underneath}",
    "{can|could} you {stack|pile up} the {blocks|cubes} with FIRST {below|at the bottom}?",
    "{I want|I would like} {a tower|a stack} with FIRST {below|at the bottom}",
    "FIRST is the {lowest|bottom} {block|cube} of the {tower|stack}",
    "the {tower|stack} {stands|rests} on the FIRST {block|cube}",
    "{put|place|set} the other {block|cube} on top of the FIRST one",
    "at the end the FIRST {block|cube} is {below|under} the other one",
    "FIRST {first|at the bottom}, then the other {block|one} on top, please",
)
UNSEEN = (
    "the base of the pile should be FIRST",
    "lay FIRST as the foundation",
    "build upwards, beginning with the FIRST cube",
    "underneath everything I want FIRST",
    "first down is FIRST, then the other",
    "build a tower of two with the FIRST block at the bottom",
    "could you start with the FIRST block and put the other on it?",
    "the FIRST cube goes underneath, the other one on top",
    "set the FIRST one down, then stack the second block over it",
    "I'd like a little tower that has the FIRST block as its base",
    "please use the FIRST block as the foundation and top it with the other",
    "at the end the other block should be resting on the FIRST one",
    "can we pile up the blocks, FIRST lowest?",
)
BLOCKS = {"left": "blue", "right": "red"}

TASK = Task(
    smooth={first: partial(smooth, first=first) for first in ARMS},
    published={first: partial(published, first=first) for first in ARMS},
    phrases={first: filled(PHRASES, FIRST=BLOCKS[first]) for first in ARMS},
    unseen_phrases={first: filled(UNSEEN, FIRST=BLOCKS[first]) for first in ARMS},
)
