"""Hand over, by either arm; transfer cube and give cube do the same with other cubes."""

from functools import partial

import numpy as np

from demos.motion import SETTLE, SMOOTH, Motion, Segment
from demos.tasks.task import Task, filled
from demos.tool_poses import CLOSED, DOWN, LEVEL, OPEN, OUTWARDS, SIDE, pitched
from envs.aloha import ARMS, OTHER

MEETING = np.array([0.0, 0.5, 0.25])  # m


def smooth(env_state: np.ndarray, giver: str = "right", number: int = 0) -> Motion:
    """One arm fetches the cube, of several that with this number, and offers it in the middle; the other one, turned by
    90°, takes it from there."""
    receiver, out = OTHER[giver], OUTWARDS[giver]
    cube = np.array([*env_state[7 * number : 7 * number + 2], 0.02])
    grasp = cube + [0.0, 0.0, 0.015]
    offered = MEETING - [0.0, 0.0, 0.015]  # where the cube is when the giving hand is at the meeting point
    down, side = DOWN[giver], SIDE[receiver]
    giving = [
        Segment(70, grasp + [0, 0, 0.08], down, OPEN, "over", path="joints"),
        Segment(35, grasp, down, OPEN, "reach", unperturbed_steps=SETTLE),
        Segment(15, grasp, down, CLOSED, "close"),
        Segment(28, grasp + [0, 0, 0.08], down, CLOSED),
        Segment(57, MEETING, down, CLOSED, path="joints", unperturbed_steps=SETTLE),
        Segment(51, MEETING, down, CLOSED, "touch"),
        Segment(20, MEETING, down, OPEN, "touch"),
        Segment(40, MEETING + [0.10 * out, 0, 0.06], down, OPEN),
    ]
    receiving = [
        Segment(110, offered + [-0.16 * out, 0, 0], side, OPEN, path="joints"),
        Segment(90, offered + [-0.09 * out, 0, 0], side, OPEN, path="joints", unperturbed_steps=SETTLE),
        Segment(40, offered, side, OPEN, "touch"),
        Segment(16, offered, side, CLOSED, "touch"),
        Segment(20, offered, side, CLOSED, "touch"),
        Segment(50, offered + [-0.10 * out, 0, 0.02], side, CLOSED),
    ]
    return Motion({giver: giving, receiver: receiving}, tracking=SMOOTH)


def published(env_state: np.ndarray, giver: str = "right", number: int = 0) -> Motion:
    """Published waypoints, giver (right): 90, 130, 170, 200 | 220, 310, 360; receiver: 100, 260, 310, 360; end at 400.

    They meet at step 200. The receiver is then on its way from 0.10 m before the meeting point to 0.02 m beyond it.
    """
    receiver, out = OTHER[giver], OUTWARDS[giver]
    cube = env_state[7 * number : 7 * number + 3]
    pick, side, level = pitched(giver), SIDE[receiver], LEVEL[receiver]
    near, taking, clear = (MEETING + [x * out, 0, -0.02] for x in (-0.1, 0.02, -0.1))
    back = MEETING + [0.1 * out, 0, 0]
    giving = [
        Segment(90, cube + [0, 0, 0.08], pick, OPEN, "over"),
        Segment(40, cube + [0, 0, -0.015], pick, OPEN, "reach"),
        Segment(40, cube + [0, 0, -0.015], pick, CLOSED, "close"),
        Segment(30, MEETING + [0.05 * out, 0, 0], pick, CLOSED),
    ]
    receiving = [
        Segment(100, near, side, OPEN),
        Segment(100, near + 100 / 160 * (taking - near), side, OPEN),
    ]
    # The giving hand opens from 220 to 310, which the receiving hand's waypoint at 260 cuts in two.
    together = {
        giver: [
            Segment(20, MEETING, pick, CLOSED, "touch"),
            Segment(40, MEETING, pick, 40 / 90, "touch", contiguous=True),
            Segment(50, MEETING, pick, OPEN, "touch"),
            Segment(50, back, pick, OPEN),
            Segment(40, back, pick, OPEN, "wait"),
        ],
        receiver: [
            Segment(20, near + 120 / 160 * (taking - near), side, OPEN, "touch"),
            Segment(40, taking, side, OPEN, "touch", contiguous=True),
            Segment(50, taking, side, CLOSED, "touch"),
            Segment(50, clear, level, CLOSED),
            Segment(40, clear, level, CLOSED, "wait"),
        ],
    }
    return Motion({receiver: receiving, giver: giving}, together)


# Phrases name one hand, the receiving one: sentence embeddings of "from the left to the right" and "from the right to
# the left" are almost equal. The same holds for two blocks.
PHRASES = (
    "{hand|pass|give} the COLOUR{cube|block} to the RECEIVER {hand|arm|gripper}",
    "the RECEIVER {hand|arm|gripper} {gets|receives|takes} the COLOUR{cube|box}",
    "{hand over|transfer|deliver} the COLOUR{cube|object} {to|into} the RECEIVER {hand|gripper}",
    "let the RECEIVER {hand|arm} {have|take|hold} the COLOUR{cube|one}",
    "{can|could} you {hand|pass|bring} the COLOUR{cube|block} to the RECEIVER {hand|side}?",
    "{I want|I would like} the RECEIVER {arm|hand} to {hold|have|end up with} the COLOUR{cube|block}",
    "the COLOUR{cube|block} {belongs|goes|should go} {in|into|to} the RECEIVER {hand|gripper}",
    "at the end the COLOUR{cube|thing} {is|has to be} in the RECEIVER {hand|gripper}",
    "RECEIVER {hand|arm}, {take|receive|get} the COLOUR{cube|block} from the other one",
    "{bring|move|carry} the COLOUR{cube|box} {over|across} to the RECEIVER {side|arm}",
    "{please|now} {put|place} the COLOUR{cube|object} in the RECEIVER {hand|gripper}",
    "COLOUR{cube|block} to the RECEIVER{| hand| arm}, please",
    "{make sure|see to it} that the COLOUR{cube|block} {is in|reaches|ends up in} the RECEIVER {hand|gripper}",
    "the RECEIVER {robot|arm|one} {should|must} {be given|grab} the COLOUR{cube|piece}",
    "{would|will} you give the RECEIVER {arm|hand|gripper} the COLOUR{cube|block}?",
    "the COLOUR{cube|one|box} is for the RECEIVER {hand|arm|robot|side}",
    "{have|let} the COLOUR{cube|block|thing} {end|finish} in the RECEIVER {hand|gripper}",
    "I {need|want} the COLOUR{cube|block|one} {on|at} the RECEIVER {side|hand}",
    "{grab|pick up} the COLOUR{cube|one} and {give|hand|pass} it to the RECEIVER {hand|arm}",
    "your RECEIVER {hand|gripper} {should hold|is to have} the COLOUR{cube|box|piece}",
    "{send|offer} the COLOUR{cube|object} to the RECEIVER {robot|arm|one}",
    "RECEIVER {robot|gripper}, the COLOUR{cube|box} is {for you|yours}",
)
UNSEEN = (
    "the COLOURcube should end up in your RECEIVER gripper",
    "could you please bring the COLOURblock over to the RECEIVER side?",
    "RECEIVER robot, accept that COLOURcube from your partner",
    "make sure the COLOURone finishes in the RECEIVER hand",
    "I want the RECEIVER manipulator to hold the COLOURbox at the end",
)
_OWN_UNSEEN = (
    *UNSEEN,
    "could your RECEIVER gripper take over the cube, please?",
    "switch the cube over into your RECEIVER hand",
    "the cube needs to end up in the RECEIVER gripper",
    "I'd like to see the RECEIVER arm holding the cube after the exchange",
    "pick the block up and pass it on to the RECEIVER arm",
    "can the RECEIVER arm be given the cube by the other one?",
    "cube to the RECEIVER hand, thanks",
)


def handing(phrases: tuple[str, ...], giver: str, colour: str = "") -> tuple[str, ...]:
    """The phrases with the receiving arm, and the cube's colour if there are several."""
    return filled(phrases, RECEIVER=OTHER[giver], COLOUR=f"{colour} " if colour else "")


TASK = Task(
    smooth={giver: partial(smooth, giver=giver) for giver in ARMS},
    published={giver: partial(published, giver=giver) for giver in ARMS},
    phrases={giver: handing(PHRASES, giver) for giver in ARMS},
    unseen_phrases={giver: handing(_OWN_UNSEEN, giver) for giver in ARMS},
)
