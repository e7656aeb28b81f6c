"""What people say when they want a task done, in many words: a small grammar for each task and way.

In a grammar `{a|b}` stands for a or b. `SEEN` is what demonstrations are told with. `UNSEEN` are other ways to say the
same, which no demonstration is told with: a policy that understands them has learnt more than labels. The first five of
each were there when the grammars were enlarged to what they are; the others were written without sight of the grammars.
"""

import re
from collections.abc import Sequence
from itertools import product

import numpy as np

from demos.experts import choose_variant
from envs.aloha import OTHER
from envs.give_cube import COLOURS

PHRASINGS_PER_EPISODE = 12

# One hand is named, the one that receives: that both of "from the left to the right" are hands, a sentence's vector
# tells, and which of them gives, it does not. The same of two blocks.
_HANDING = (
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
_HANDING_UNSEEN = (
    "the COLOURcube should end up in your RECEIVER gripper",
    "could you please bring the COLOURblock over to the RECEIVER side?",
    "RECEIVER robot, accept that COLOURcube from your partner",
    "make sure the COLOURone finishes in the RECEIVER hand",
    "I want the RECEIVER manipulator to hold the COLOURbox at the end",
)
_TRANSFERRING_UNSEEN = (
    *_HANDING_UNSEEN,
    "could you get the red cube over to your left hand?",
    "pass the red cube across so the left gripper ends up holding it",
    "the red cube belongs in the left gripper, please move it there",
    "red cube to left arm",
    "I want your left arm to receive the small red cube",
    "please let the left hand have the red cube that's on the table",
    "when you're done, the left gripper should be holding the red cube",
    "would you mind delivering the red cube to the left arm?",
)
_HANDING_OVER_UNSEEN = (
    *_HANDING_UNSEEN,
    "could your RECEIVER gripper take over the cube, please?",
    "switch the cube over into your RECEIVER hand",
    "the cube needs to end up in the RECEIVER gripper",
    "I'd like to see the RECEIVER arm holding the cube after the exchange",
    "pick the block up and pass it on to the RECEIVER arm",
    "can the RECEIVER arm be given the cube by the other one?",
    "cube to the RECEIVER hand, thanks",
)
_GIVING_UNSEEN = (
    *_HANDING_UNSEEN,
    "bring the COLOURcube to the RECEIVER hand",
    "would you pass the COLOURone of the two cubes to the RECEIVER arm?",
    "the RECEIVER gripper should finish with the COLOURcube in it",
    "my wish is that the RECEIVER arm gets the COLOURblock",
    "choose the COLOURcube and let the RECEIVER hand have it",
    "COLOURcube, RECEIVER gripper, please",
    "can I see your RECEIVER hand receive the COLOURcube?",
    "out of the two blocks, hand the COLOURone to the RECEIVER gripper",
)
_INSERTING = (
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
_INSERTING_UNSEEN = (
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
_LIFTING = (
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
_LIFTING_UNSEEN = (
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
_STACKING = (
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
_STACKING_UNSEEN = (
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
_TIPPING = (
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
_TIPPING_UNSEEN = (
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


def _with(templates: tuple[str, ...], **words: str) -> tuple[str, ...]:
    for name, word in words.items():
        templates = tuple(template.replace(name, word) for template in templates)
    return templates


def _handing(templates: tuple[str, ...], giver: str, colour: str = "") -> tuple[str, ...]:
    return _with(templates, RECEIVER=OTHER[giver], COLOUR=f"{colour} " if colour else "")


def _stacking(templates: tuple[str, ...], first: str) -> tuple[str, ...]:
    return _with(templates, FIRST={"left": "blue", "right": "red"}[first])


def _all(
    *,
    transferring: tuple,
    inserting: tuple,
    handing: tuple,
    giving: tuple,
    lifting: tuple,
    stacking: tuple,
    tipping: tuple,
) -> dict[str, dict[str, tuple[str, ...]]]:
    return {
        "BimanualTransferCube-v0": {"": _handing(transferring, "right", "red")},
        "BimanualInsertion-v0": {"": inserting},
        "BimanualHandOver-v0": {giver: _handing(handing, giver) for giver in OTHER},
        "BimanualGiveCube-v0": {
            f"{colour}_{giver}": _handing(giving, giver, colour) for colour in COLOURS for giver in OTHER
        },
        "BimanualLiftTray-v0": {"": lifting},
        "BimanualStack-v0": {first: _stacking(stacking, first) for first in OTHER},
        "BimanualTip-v0": {"": tipping},
    }


SEEN = _all(
    transferring=_HANDING,
    inserting=_INSERTING,
    handing=_HANDING,
    giving=_HANDING,
    lifting=_LIFTING,
    stacking=_STACKING,
    tipping=_TIPPING,
)
"""Task → way → grammars."""
UNSEEN = _all(
    transferring=_TRANSFERRING_UNSEEN,
    inserting=_INSERTING_UNSEEN,
    handing=_HANDING_OVER_UNSEEN,
    giving=_GIVING_UNSEEN,
    lifting=_LIFTING_UNSEEN,
    stacking=_STACKING_UNSEEN,
    tipping=_TIPPING_UNSEEN,
)
"""Task → way → sentences."""


def phrasings(env_id: str, variant: str = "") -> list[str]:
    """All sentences of the grammars of a task and way; none for a task that has no grammar."""
    return [sentence for grammar in SEEN.get(env_id, {}).get(variant, ()) for sentence in expanded(grammar)]


def sample_phrasings(env_id: str, variant: str, seed: int) -> list[str]:
    """The phrasings that the demonstration of a seed is told with: some of all, from a stream of their own."""
    known = phrasings(env_id, variant)
    rng = np.random.default_rng([seed, 0x5A])
    return [known[i] for i in rng.permutation(len(known))[:PHRASINGS_PER_EPISODE]]


def instruction_for(env_id: str, variant: str, seed: int, unseen: bool = False) -> str | None:
    """The instruction of the episode of a seed, in which a way is asked for; None if none are known."""
    known = UNSEEN.get(env_id, {}).get(variant, ()) if unseen else sample_phrasings(env_id, variant, seed)
    return known[seed % len(known)] if known else None


def sample_instruction(env_id: str, seed: int) -> str:
    """The instruction of the episode of a seed: one of the task's ways, any as often as the others; "" if none are
    known."""
    return instruction_for(env_id, choose_variant(SEEN.get(env_id, {"": ()}), seed), seed) or ""


def language_attributes(env_id: str, variant: str, seed: int, given: Sequence[str] = ()) -> dict[str, str | list[str]]:
    """Of an episode's file: which way it went, and the words for that, those `given` or else some that are known."""
    words = list(given) or sample_phrasings(env_id, variant, seed)
    return {**({"variant": variant} if variant else {}), **({"instruction": words} if words else {})}


def expanded(grammar: str) -> list[str]:
    """Every sentence of a grammar."""
    parts = re.split(r"\{(.*?)\}", grammar)  # plain text and alternatives in turn
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(words) for words in product(*choices)]
