"""Lift tray: both arms grasp the handles from above and lift them together."""

import numpy as np

from demos.motion import SETTLE, SMOOTH, Motion, Segment
from demos.tasks.task import Task
from demos.tool_poses import CLOSED, DOWN, OPEN, OUTWARDS, pitched
from envs.aloha import ARMS


def smooth(env_state: np.ndarray) -> Motion:
    tray, segments = np.array([*env_state[:2], 0.0]), {}
    for arm in ARMS:
        grasp, down = tray + [0.18 * OUTWARDS[arm], 0, 0.034], DOWN[arm]
        segments[arm] = [
            Segment(80, grasp + [0, 0, 0.08], down, OPEN, "over", path="joints"),
            Segment(35, grasp, down, OPEN, "reach", unperturbed_steps=SETTLE),
            Segment(16, grasp, down, CLOSED, "close"),
            Segment(15, grasp, down, CLOSED, "wait"),
            Segment(100, grasp + [0, 0, 0.16], down, CLOSED, "touch"),
        ]
    return Motion(segments, tracking=SMOOTH)


def published(env_state: np.ndarray) -> Motion:
    """Each arm takes its handle; once both hold theirs they lift."""
    alone, together = {}, {}
    for arm in ARMS:
        handle, pick = env_state[:3] + [0.18 * OUTWARDS[arm], 0, 0.016], pitched(arm)
        grasp, high = handle + [0, 0, 0.012], handle + [0, 0, 0.16]
        alone[arm] = [
            Segment(100, grasp + [0, 0, 0.08], pick, OPEN, "over"),
            Segment(40, grasp, pick, OPEN, "reach"),
            Segment(30, grasp, pick, CLOSED, "close"),
        ]
        together[arm] = [Segment(100, high, pick, CLOSED, "touch"), Segment(50, high, pick, CLOSED, "wait")]
    return Motion(alone, together)


PHRASES = (
    "{lift|raise|pick up} the tray {with both hands|with both arms}",
    "{lift|raise} the {tray|plate} {and keep it level|without dropping the ball}",
    "{grasp|take|hold} the tray by its handles and {lift it|raise it} {evenly|level}",
    "{bring|move|take} the {tray|board} up{| with both hands| and keep it flat}",
    "the {tray|plate} {should|has to} {go up|be lifted}{| evenly| with the ball on it}",
    "{can|could} you {lift|raise} the {tray|board} {for me|with two hands}?",
    "{I want|I would like} the {tray|plate} {lifted|up in the air}{|, held level}",
    "both {hands|arms|grippers} {lift|carry|raise} the {tray|plate} {together|up}",
    "{carry|lift} the ball up on the {tray|plate}",
    "keep the ball on the {tray|board} while {lifting it|you raise it}",
    "at the end the {tray|plate} is {high up|off the table}{| and level}",
    "{grab|grip} both {handles|ends} and {lift|go up|raise the tray}, please",
)
UNSEEN = (
    "bring the tray up, the ball must stay on it",
    "hoist the serving board by both ends",
    "elevate the plate with the ball, keeping it horizontal",
    "carry the tray upwards with two hands",
    "take hold of the two grips and go up together",
    "raise the tray with both hands and keep the ball on it",
    "can you pick up the tray without dropping the ball?",
    "grab the two handles and bring the tray up evenly",
    "please hoist the tray gently so the ball doesn't roll off",
    "the tray should be in the air, level, with the ball still on top",
    "I need that tray lifted flat, ball and all",
    "carefully take the tray by its handles and lift it straight up",
    "would both arms together elevate the tray while balancing the ball?",
)

TASK = Task(
    smooth={"": smooth},
    published={"": published},
    phrases={"": PHRASES},
    unseen_phrases={"": UNSEEN},
)
