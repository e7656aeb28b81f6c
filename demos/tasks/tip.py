"""Tip: the left arm holds the bowl by its handle; the right one turns the cup about its tool, above and beside it."""

import numpy as np

from demos.motion import SETTLE, SMOOTH, Motion, Segment
from demos.tasks.task import Task
from demos.tool_poses import CLOSED, DOWN, OPEN, pitched, tool_rotation

MEETING = np.array([-0.02, 0.5, 0.14])  # m, where the middle of the bowl's floor is held
CUP_ABOVE = np.array([-0.02, -0.062, 0.15])  # m from there: the tool at the cup, whose mouth then comes over it
PITCH_AT_CUP = 15.0  # degrees that the hand points down, so that its wrist stays clear of the table
BACK = np.array([np.cos(np.radians(PITCH_AT_CUP)), 0, np.sin(np.radians(PITCH_AT_CUP))])  # along the tool
HELD = pitched("right", PITCH_AT_CUP)
TILTED_BY_0, TILTED_BY_85, TILTED_BY_170 = (tool_rotation(yaw=180, roll=roll) for roll in (0, 85, 170))


def smooth(env_state: np.ndarray) -> Motion:
    cup, bowl = np.array([*env_state[:2], 0.0]), np.array([*env_state[7:9], 0.0])
    down, grasp, handle = DOWN["left"], cup + [0.004, 0, 0.048], bowl + [-0.1, 0, 0.034]
    return Motion(
        {
            "right": [
                Segment(80, grasp + 0.08 * BACK, HELD, OPEN, "over", path="joints", unperturbed_steps=2 * SETTLE),
                Segment(35, grasp, HELD, OPEN, "reach", unperturbed_steps=SETTLE),
                Segment(16, grasp, HELD, CLOSED, "close"),
                Segment(34, grasp + [0, 0, 0.12], TILTED_BY_0, CLOSED),
                Segment(60, MEETING + CUP_ABOVE, TILTED_BY_0, CLOSED),
                Segment(45, MEETING + CUP_ABOVE, TILTED_BY_85, CLOSED, "touch"),
                Segment(40, MEETING + CUP_ABOVE, TILTED_BY_170, CLOSED, "touch"),
            ],
            "left": [
                Segment(80, handle + [0, 0, 0.08], down, OPEN, "over", path="joints"),
                Segment(35, handle, down, OPEN, "reach", unperturbed_steps=SETTLE),
                Segment(16, handle, down, CLOSED, "close"),
                Segment(34, handle + [0, 0, 0.08], down, CLOSED),
                Segment(50, MEETING + [-0.1, 0, 0.034], down, CLOSED),
            ],
        },
        tracking=SMOOTH,
    )


def published(env_state: np.ndarray) -> Motion:
    """Each arm takes its vessel to the middle; there the cup is turned about the tool that holds it."""
    cup, bowl = np.array([*env_state[:2], 0.0]), np.array([*env_state[7:9], 0.0])
    pick, grasp, handle = pitched("left"), cup + [0.004, 0, 0.048], bowl + [-0.1, 0, 0.03]
    above, out = MEETING + CUP_ABOVE, MEETING + [-0.1, 0, 0.03]
    alone = {
        "right": [
            Segment(90, grasp + 0.08 * BACK, HELD, OPEN, "over"),
            Segment(40, grasp, HELD, OPEN, "reach"),
            Segment(30, grasp, HELD, CLOSED, "close"),
            Segment(40, grasp + [0, 0, 0.12], TILTED_BY_0, CLOSED),
            Segment(50, above, TILTED_BY_0, CLOSED),
        ],
        "left": [
            Segment(90, handle + [0, 0, 0.08], pick, OPEN, "over"),
            Segment(40, handle, pick, OPEN, "reach"),
            Segment(30, handle, pick, CLOSED, "close"),
            Segment(40, handle + [0, 0, 0.08], pick, CLOSED),
            Segment(50, out, pick, CLOSED),
        ],
    }
    together = {
        "right": [
            Segment(50, above, TILTED_BY_85, CLOSED, "touch"),
            Segment(45, above, TILTED_BY_170, CLOSED, "touch"),
            Segment(55, above, TILTED_BY_170, CLOSED, "wait"),
        ],
        "left": [Segment(steps, out, pick, CLOSED, "wait") for steps in (50, 45, 55)],
    }
    return Motion(alone, together)


PHRASES = (
    "{pour|tip} the balls {from the cup|out of the cup} into the bowl",
    "{empty|tip out} the {cup|beaker} into the {green bowl|bowl}",
    "{hold|lift} the bowl with the left {arm|hand} and {pour|tip} the balls in with the right",
    "{fill|load} the {bowl|dish} {with the balls|from the cup}",
    "{can|could} you {pour|empty} the {cup|beaker} into the {bowl|dish}?",
    "{I want|I would like} {the|all} balls in the {bowl|green dish}",
    "the {balls|yellow balls} {go|belong|should go} {in|into} the {bowl|dish}",
    "{turn|tilt} the {cup|beaker} over the {bowl|dish}",
    "{drop|dump} {the balls|what is} in the cup into the {bowl|dish}",
    "at the end the {bowl|dish} {holds|contains} the balls{| and the cup is empty}",
    "{move|transfer} the {balls|small balls} from the {cup|mug} to the {bowl|dish}",
    "balls into the {bowl|dish}, please",
)
UNSEEN = (
    "fill the bowl with what is in the cup",
    "turn the blue cup over above the bowl",
    "transfer the yellow balls to the bowl",
    "let the balls fall out of the cup into the dish",
    "dump the contents of the beaker into the container on the left",
    "pour the yellow balls from the blue cup into the green bowl",
    "could you empty the cup into the bowl, please?",
    "all the little yellow balls should end up in the green bowl",
    "hold the bowl and tip the cup's contents into it",
    "I want the balls out of the cup and in the bowl",
    "dump the blue cup out over the green bowl",
    "would you mind pouring those small balls into the bowl?",
    "take the cup, tilt it over the bowl and let the balls fall in",
)

TASK = Task(
    smooth={"": smooth},
    published={"": published},
    phrases={"": PHRASES},
    unseen_phrases={"": UNSEEN},
)
