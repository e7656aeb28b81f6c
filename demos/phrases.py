"""What people say when they want a task done, in many words: a small grammar for each task and way.

In a grammar `{a|b}` stands for a or b. `SEEN` is what demonstrations are told with. `UNSEEN` are other ways to say the
same, which no demonstration is told with: a policy that understands them has learnt more than labels.
"""

import re
from itertools import product

import numpy as np

from demos.experts import OTHER, choose
from envs.give_cube import COLOURS

TOLD = 6  # phrasings that an episode is told with

_HANDING = (
    "{hand|pass|give} the COLOURcube from the GIVER {hand|arm} to the RECEIVER {hand|arm|gripper}",
    "{pick up|grasp|take} the COLOURcube with the GIVER {hand|arm} and {hand it over|pass it} to the RECEIVER one",
    "use the GIVER {arm|gripper} to {pick up|get} the COLOURcube, then {give|hand} it to the RECEIVER {arm|hand}",
)
_HANDING_UNSEEN = (
    "transfer the COLOURcube into your RECEIVER hand, starting with the GIVER",
    "lift the COLOURblock with GIVER and let RECEIVER have it",
    "could the GIVER arm please fetch the COLOURcube and deliver it to the RECEIVER arm?",
    "the COLOURcube should end up in the RECEIVER gripper; the GIVER one brings it",
    "GIVER robot: grab that COLOURcube and present it to the RECEIVER robot",
)
_INSERTING = (
    "{insert|put|push} the red {peg|stick} into the blue {socket|tube}",
    "{pick up|take} the {peg|stick} and the socket and {put them together|insert one into the other}",
    "{hold|lift} the blue socket with the left {arm|hand} and {insert|slide in} the red peg with the right",
)
_INSERTING_UNSEEN = (
    "plug the red rod into the hole of the blue part",
    "assemble the two parts in the air",
    "the peg belongs inside the socket, please put it there",
    "join the stick with the sleeve",
    "fit the red piece into the blue one using both arms",
)
_LIFTING = (
    "{lift|raise|pick up} the tray {with both hands|with both arms}",
    "{lift|raise} the tray {and keep it level|without dropping the ball}",
    "{grasp|take|hold} the tray by its handles and {lift it|raise it} {evenly|level}",
)
_LIFTING_UNSEEN = (
    "bring the tray up, the ball must stay on it",
    "hoist the serving board by both ends",
    "elevate the plate with the ball, keeping it horizontal",
    "carry the tray upwards with two hands",
    "take hold of the two grips and go up together",
)
_STACKING = (
    "{build|make} a tower with the FIRST block {at the bottom|below}",
    "{put|place} the FIRST block on the {mark|white spot} and the SECOND one on top",
    "stack the SECOND block on {top of the FIRST one|the FIRST block}",
)
_STACKING_UNSEEN = (
    "the FIRST one goes down first, then the SECOND one over it",
    "pile up the cubes, SECOND above FIRST",
    "start the tower with FIRST, finish with SECOND",
    "set FIRST in the centre and balance SECOND upon it",
    "I want SECOND to sit on FIRST",
)
_TIPPING = (
    "{pour|tip} the balls {from the cup|out of the cup} into the bowl",
    "{empty|tip out} the cup into the {green bowl|bowl}",
    "{hold|lift} the bowl with the left {arm|hand} and {pour|tip} the balls in with the right",
)
_TIPPING_UNSEEN = (
    "fill the bowl with what is in the cup",
    "turn the blue cup over above the bowl",
    "transfer the yellow balls to the bowl",
    "let the balls fall out of the cup into the dish",
    "dump the contents of the beaker into the container on the left",
)


def _with(templates: tuple[str, ...], **words: str) -> tuple[str, ...]:
    for name, word in words.items():
        templates = tuple(template.replace(name, word) for template in templates)
    return templates


def _handing(templates: tuple[str, ...], giver: str, colour: str = "") -> tuple[str, ...]:
    return _with(templates, GIVER=giver, RECEIVER=OTHER[giver], COLOUR=f"{colour} " if colour else "")


def _stacking(templates: tuple[str, ...], first: str) -> tuple[str, ...]:
    colours = {"left": "blue", "right": "red"}
    return _with(templates, FIRST=colours[first], SECOND=colours[OTHER[first]])


def _all(handing: tuple, inserting: tuple, lifting: tuple, stacking: tuple, tipping: tuple) -> dict[str, dict]:
    return {
        "BimanualTransferCube-v0": {"": _handing(handing, "right", "red")},
        "BimanualInsertion-v0": {"": inserting},
        "BimanualHandOver-v0": {giver: _handing(handing, giver) for giver in OTHER},
        "BimanualGiveCube-v0": {
            f"{colour}_{giver}": _handing(handing, giver, colour) for colour in COLOURS for giver in OTHER
        },
        "BimanualLiftTray-v0": {"": lifting},
        "BimanualStack-v0": {first: _stacking(stacking, first) for first in OTHER},
        "BimanualTip-v0": {"": tipping},
    }


SEEN: dict[str, dict[str, tuple[str, ...]]] = _all(_HANDING, _INSERTING, _LIFTING, _STACKING, _TIPPING)
"""Task → way → grammars."""
UNSEEN: dict[str, dict[str, tuple[str, ...]]] = _all(
    _HANDING_UNSEEN, _INSERTING_UNSEEN, _LIFTING_UNSEEN, _STACKING_UNSEEN, _TIPPING_UNSEEN
)
"""Task → way → sentences."""


def phrasings(env_id: str, way: str = "") -> list[str]:
    """All sentences of the grammars of a task and way; none for a task that has no grammar."""
    return [sentence for grammar in SEEN.get(env_id, {}).get(way, ()) for sentence in expanded(grammar)]


def told(env_id: str, way: str, seed: int) -> list[str]:
    """The phrasings that the demonstration of a seed is told with: some of all, from a stream of their own."""
    known = phrasings(env_id, way)
    rng = np.random.default_rng([seed, 0x5A])
    return [known[i] for i in rng.permutation(len(known))[:TOLD]]


def order(env_id: str, seed: int) -> tuple[str, str]:
    """What is to be done in the episode of a seed: a way, any as often as the others, and words for it; "" if none are
    known."""
    way = choose(SEEN.get(env_id, {"": ()}), seed)
    return way, next(iter(told(env_id, way, seed)), "")


def expanded(grammar: str) -> list[str]:
    """Every sentence of a grammar."""
    parts = re.split(r"\{(.*?)\}", grammar)  # plain text and alternatives in turn
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(words) for words in product(*choices)]
