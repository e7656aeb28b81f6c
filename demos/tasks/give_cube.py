"""Give cube: one of two cubes is handed over, by either arm."""

from functools import partial

from demos.tasks.hand_over import PHRASES, UNSEEN, handing, published, smooth
from demos.tasks.task import Task
from envs.aloha import ARMS
from envs.give_cube import COLOURS

_OWN_UNSEEN = (
    *UNSEEN,
    "bring the COLOURcube to the RECEIVER hand",
    "would you pass the COLOURone of the two cubes to the RECEIVER arm?",
    "the RECEIVER gripper should finish with the COLOURcube in it",
    "my wish is that the RECEIVER arm gets the COLOURblock",
    "choose the COLOURcube and let the RECEIVER hand have it",
    "COLOURcube, RECEIVER gripper, please",
    "can I see your RECEIVER hand receive the COLOURcube?",
    "out of the two blocks, hand the COLOURone to the RECEIVER gripper",
)
VARIANTS = {f"{colour}_{giver}": (colour, giver) for colour in COLOURS for giver in ARMS}

TASK = Task(
    smooth={
        name: partial(smooth, giver=giver, number=COLOURS.index(colour)) for name, (colour, giver) in VARIANTS.items()
    },
    published={
        name: partial(published, giver=giver, number=COLOURS.index(colour))
        for name, (colour, giver) in VARIANTS.items()
    },
    phrases={name: handing(PHRASES, giver, colour) for name, (colour, giver) in VARIANTS.items()},
    unseen_phrases={name: handing(_OWN_UNSEEN, giver, colour) for name, (colour, giver) in VARIANTS.items()},
)
