"""Transfer cube: the right arm hands the red cube over to the left one."""

from demos.tasks.hand_over import PHRASES, UNSEEN, handing, published, smooth
from demos.tasks.task import Task

_OWN_UNSEEN = (
    *UNSEEN,
    "could you get the red cube over to your left hand?",
    "pass the red cube across so the left gripper ends up holding it",
    "the red cube belongs in the left gripper, please move it there",
    "red cube to left arm",
    "I want your left arm to receive the small red cube",
    "please let the left hand have the red cube that's on the table",
    "when you're done, the left gripper should be holding the red cube",
    "would you mind delivering the red cube to the left arm?",
)

TASK = Task(
    smooth={"": smooth},
    published={"": published},
    phrases={"": handing(PHRASES, "right", "red")},
    unseen_phrases={"": handing(_OWN_UNSEEN, "right", "red")},
)
