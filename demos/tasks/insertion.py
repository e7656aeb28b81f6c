"""Insertion: each arm fetches its part; they meet in mid-air and push the peg into the socket."""

import numpy as np

from demos.motion import SETTLE, SMOOTH, Motion, Segment
from demos.tasks.task import Task
from demos.tool_poses import CLOSED, DOWN, OPEN, OUTWARDS, pitched
from envs.aloha import ARMS

MEETING = np.array([0.0, 0.5, 0.15])  # m


def smooth(env_state: np.ndarray) -> Motion:
    """The hands hold the outer halves of the parts and end 40 mm closer to each other than the parts allow, so that the
    peg seats, and no hand touches the other's part, even if both are grasped 20 mm off on either side: an imitator has
    this much room for its mistakes.
    """
    away = {"right": np.array([1.0, 0, 0]), "left": np.array([-1.0, 0, 0])}  # from the partner, along the parts
    # Where the tool is when it closes: beside the middle of its part, and so far above that it clears the table.
    tool = {"right": 0.03 * away["right"] + [0, 0, 0.030], "left": 0.02 * away["left"] + [0, 0, 0.032]}
    above = {"right": np.array([0, 0, 0.020]), "left": np.array([0, 0, 0.010])}  # the parts' middles are level then
    parts = {"right": np.array([*env_state[0:2], 0]), "left": np.array([*env_state[7:9], 0])}
    segments = {}
    for arm in ARMS:
        grasp, down = parts[arm] + tool[arm], DOWN[arm]
        segments[arm] = [
            Segment(85, grasp + [0, 0, 0.08], down, OPEN, "over", path="joints"),
            Segment(40, grasp, down, OPEN, "reach", unperturbed_steps=SETTLE),
            Segment(16, grasp, down, CLOSED, "close"),
            Segment(29, grasp + [0, 0, 0.08], down, CLOSED),
            Segment(60, MEETING + above[arm] + 0.125 * away[arm], down, CLOSED, path="joints"),
            Segment(95, MEETING + above[arm] + 0.055 * away[arm], down, CLOSED, "touch"),
        ]
    return Motion(segments, tracking=SMOOTH)


def published(env_state: np.ndarray) -> Motion:
    """Published waypoints of both arms: 120, 170, 220, 285 | 340; end at 400. They meet at 285, 0.1 m apart.

    The hands end at x ±0.04 instead of the published ±0.05, where the peg stops 1 mm short of the pin.
    """
    lift = {"left": 0.0, "right": 0.00715}
    parts = {"right": env_state[0:3], "left": env_state[7:10]}
    alone, together = {}, {}
    for arm in ARMS:
        part, pick = parts[arm], pitched(arm)
        apart, inserted = (MEETING + [OUTWARDS[arm] * x, 0, lift[arm]] for x in (0.1, 0.04))
        alone[arm] = [
            Segment(120, part + [0, 0, 0.08], pick, OPEN, "over"),
            Segment(50, part + [0, 0, -0.03], pick, OPEN, "reach"),
            Segment(50, part + [0, 0, -0.03], pick, CLOSED, "close"),
            Segment(65, apart, pick, CLOSED),
        ]
        together[arm] = [
            Segment(55, inserted, pick, CLOSED, "touch"),
            Segment(60, inserted, pick, CLOSED, "wait"),
        ]
    return Motion(alone, together)


PHRASES = (
    "{insert|put|push} the red {peg|stick|rod} into the blue {socket|tube}",
    "{pick up|take} the {peg|stick} and the socket and {put them together|insert one into the other|join them}",
    "{hold|lift} the blue socket with the left {arm|hand} and {insert|slide in} the red {peg|rod} with the right",
    "the {peg|red stick} {goes|belongs|should go} {into|inside} the {socket|blue tube}",
    "{plug|fit|stick} the {peg|red part} into the {socket|blue part}",
    "{can|could} you {plug|put|slide} the {peg|rod} into the {socket|tube}?",
    "{assemble|connect|join} the {peg and the socket|red and the blue part|two parts}",
    "{I want|I would like} the {peg|red piece} {in|inside} the {socket|blue piece}",
    "at the end the {peg|stick} {is|sits} {in|inside} the {socket|tube}",
    "use both {hands|arms} to {assemble the parts|bring peg and socket together}",
    "{peg|stick} {in|into} the {socket|hole}, please",
)
UNSEEN = (
    "plug the red rod into the hole of the blue part",
    "assemble the two parts in the air",
    "the peg belongs inside the socket, please put it there",
    "join the stick with the sleeve",
    "fit the red piece into the blue one using both arms",
    "slide the red peg into the blue socket",
    "can you plug the red stick into the blue tube?",
    "lift both pieces and join them, red peg inside blue socket",
    "I'd like the red rod pushed into the square blue tube",
    "the peg should end up sitting inside the socket",
    "please fit the peg and the socket together in mid-air",
    "hold the blue tube up and poke the red stick into its opening",
    "would you kindly insert that red bar into the hollow blue piece?",
)

TASK = Task(
    smooth={"": smooth},
    published={"": published},
    phrases={"": PHRASES},
    unseen_phrases={"": UNSEEN},
)
