"""Simulated people: demonstrators whose demonstrations nobody shaped for a learner.

A script (`demos.moves`) says what is done; traits change how it is carried out, each of them alone or with others. An
operator is a named set of traits. All that strays is commanded and recorded as it is, with no intention beside it, and
the seed of an episode tells all of it.

    pauses      hesitates before contact, after contact and at random, 0.1 to 2 s
    tempo       0.4 to 1.5 times the usual speed, another in every episode and in every move
    wander      the tool strays slowly by about a centimetre, near contact by a millimetre or two
    overshoot   goes 1 to 3 cm too far in the air, and back
    misses      in half of the episodes closes too high above the object, opens, looks, tries again
    approaches  from either side, straight from above or slanted, over a high or a low arc
    order       one arm first, or the other, or both at once
    idle_ends   stands still for 0.2 to 2 s at the beginning and at the end
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from demos.experts import choose_variant
from demos.moves import PITCH, SCRIPTS, Hands, Move, Script, length, pause, picking
from demos.spec import EpisodeError
from envs.aloha import ARMS, FPS

Trait = Callable[..., Script]
"""(script, rng, **how strongly) → the script as this trait carries it out."""


def pauses(script: Script, rng: np.random.Generator, chance: float = 0.6, longest: float = 2.0) -> Script:
    def hesitation() -> float:
        return FPS * (0.1 + (longest - 0.1) * rng.uniform() ** 2)

    alone = {}
    for arm, moves in script.alone.items():
        alone[arm] = []
        for move in moves:
            alone[arm].append(move)
            likely = chance if move.kind in ("over", "reach", "close") else chance / 3
            if rng.uniform() < likely:
                alone[arm].append(pause(move, hesitation()))
    together: dict[str, list[Move]] = {arm: [] for arm in ARMS}
    for pair in zip(*(script.together[arm] for arm in ARMS), strict=True):
        after = not any(move.busy for move in pair) and rng.uniform() < chance / 2
        steps = hesitation()
        for arm, move in zip(ARMS, pair, strict=True):
            together[arm] += [move, pause(move, steps)] if after else [move]
    return replace(script, alone=alone, together=together)


def tempo(script: Script, rng: np.random.Generator, slowest: float = 0.4, fastest: float = 1.5) -> Script:
    usual = np.exp(rng.uniform(np.log(slowest), np.log(fastest)))

    def slower(move: Move, speed: float) -> Move:
        return move if move.kind == "wait" else replace(move, steps=move.steps / speed)

    def speed() -> float:
        return float(np.clip(usual * np.exp(rng.normal(0, 0.2)), slowest, fastest))

    alone = {arm: [slower(move, speed()) for move in moves] for arm, moves in script.alone.items()}
    speeds = [speed() for _ in script.together["left"]]
    together = {
        arm: [slower(move, each) for move, each in zip(moves, speeds, strict=True)]
        for arm, moves in script.together.items()
    }
    return replace(script, alone=alone, together=together)


def wander(script: Script, rng: np.random.Generator, size: float = 0.01, at_contact: float = 0.15) -> Script:
    def drift_of(phases: np.ndarray, periods: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def drift(free: np.ndarray) -> np.ndarray:
            t = np.arange(len(free))[:, None, None] / FPS
            waves = np.sin(2 * np.pi * t / periods + phases).sum(axis=1) * size / np.sqrt(len(periods) / 2)  # (T, 3)
            window = np.ones(FPS) / FPS  # so that it comes and goes within a second
            padded = np.concatenate([np.full(FPS, free[0]), free, np.full(FPS, free[-1])])
            smooth = np.convolve(padded, window, mode="same")[FPS:-FPS]
            begin = np.minimum(1, np.arange(len(free)) / FPS)  # everything starts at the home pose
            waves[:, 2] *= 0.5
            return waves * (np.maximum(smooth, at_contact) * begin)[:, None]

        return drift

    drift = {arm: drift_of(rng.uniform(0, 2 * np.pi, (3, 3)), rng.uniform(1.5, 6, (3, 3))) for arm in ARMS}
    return replace(script, drift=drift)


def overshoot(script: Script, rng: np.random.Generator, chance: float = 0.7) -> Script:
    alone = {}
    for arm, moves in script.alone.items():
        alone[arm] = moves[:1]
        for before, move in pairwise(moves):
            way = move.position - before.position
            far = float(np.linalg.norm(way))
            if move.kind in ("free", "over") and far > 0.05 and rng.uniform() < chance:
                beyond = move.position + rng.uniform(0.01, 0.03) * way / far
                alone[arm] += [replace(move, position=beyond), replace(move, steps=rng.uniform(12, 25))]
            else:
                alone[arm].append(move)
    return replace(script, alone=alone)


def misses(script: Script, rng: np.random.Generator, chance: float = 0.5) -> Script:
    alone = {}
    for arm, moves in script.alone.items():
        alone[arm] = []
        missed = rng.uniform() < chance
        for i, move in enumerate(moves):
            if missed and move.kind == "reach":
                over, close = moves[i - 1], moves[i + 1]
                beside = move.position + [*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.055, 0.07)]
                shut = replace(move, kind="free", position=beside, gripper=close.gripper, steps=close.steps)
                alone[arm] += [
                    replace(move, kind="free", position=beside),
                    shut,
                    replace(over, gripper=close.gripper, steps=30),
                    replace(over, steps=20),
                    pause(over, rng.uniform(10, 40)),
                ]
            alone[arm].append(move)
    return replace(script, alone=alone)


def approaches(script: Script, rng: np.random.Generator) -> Script:
    alone, together = dict(script.alone), dict(script.together)
    for arm in ARMS:
        usual, held = picking(arm), picking(arm, rng.uniform(PITCH, 85))
        side, height = rng.uniform(-0.06, 0.06), rng.uniform(-0.02, 0.1)

        def turned(move: Move, usual: np.ndarray = usual, held: np.ndarray = held) -> Move:
            return replace(move, rotation=held) if np.array_equal(move.rotation, usual) else move

        together[arm] = [turned(move) for move in script.together[arm]]
        alone[arm] = []
        for before, move in zip([None, *script.alone[arm]], script.alone[arm], strict=False):
            move = turned(move)
            if before is not None and move.kind == "over":
                via = (before.position + move.position) / 2 + [0, 2 * side, height]
                half = replace(move, kind="free", position=via, steps=move.steps / 2)
                alone[arm] += [half, replace(move, position=move.position + [0, side, 0], steps=move.steps / 2)]
            else:
                alone[arm].append(move)
    return replace(script, alone=alone, together=together)


def order(script: Script, rng: np.random.Generator) -> Script:
    first = rng.choice([*ARMS, "both"])
    if first == "both":
        return script
    other = "left" if first == "right" else "right"
    home, *rest = script.alone[other]
    delay = length(script.alone[first]) * rng.uniform(0.7, 1.0)
    return replace(script, alone=script.alone | {other: [home, pause(home, delay), *rest]})


def idle_ends(script: Script, rng: np.random.Generator) -> Script:
    before, after = rng.uniform(0.2 * FPS, 2 * FPS, 2)
    alone = {arm: [moves[0], pause(moves[0], before), *moves[1:]] for arm, moves in script.alone.items()}
    together = {arm: [*moves, pause(moves[-1], after)] for arm, moves in script.together.items()}
    return replace(script, alone=alone, together=together)


TRAITS: dict[str, Trait] = {
    "approaches": approaches,
    "misses": misses,
    "overshoot": overshoot,
    "tempo": tempo,
    "pauses": pauses,
    "order": order,
    "idle_ends": idle_ends,
    "wander": wander,
}
"""In the order in which they are applied."""

OPERATORS: dict[str, dict[str, dict[str, float]]] = {
    "plain": {},
    "careful": {
        "overshoot": {"chance": 0.3},
        "tempo": {"slowest": 0.5, "fastest": 0.9},
        "pauses": {},
        "idle_ends": {},
        "wander": {"size": 0.006},
    },
    "hasty": {
        "misses": {"chance": 0.4},
        "overshoot": {},
        "tempo": {"slowest": 0.9, "fastest": 1.5},
        "pauses": {"chance": 0.3, "longest": 0.5},
        "wander": {},
    },
    "mixed": {name: {} for name in TRAITS},
}
"""Operator → its traits, each with how strongly."""

LONGEST = 5000
"""More steps than any episode takes."""

SOMETIMES = 0.5
"""How probable each trait of `mixed` is in an episode."""


class Operator:
    """An agent that demonstrates a task as a person might.

    Args:
        env_id: the task, by its Gymnasium id.
        name: one of `OPERATORS`.
        traits: more of `TRAITS`, at their usual strength.

    Attributes:
        length: steps of the longest of the present episodes; the agent holds its last command afterwards.
        variants: of the present episodes, as the scripted expert's.

    Raises:
        EpisodeError: an unknown operator, trait or task.
    """

    cameras: tuple[str, ...] = ()
    intended: np.ndarray | None = None

    def __init__(self, env_id: str, name: str = "plain", traits: Sequence[str] = ()):
        if env_id not in SCRIPTS:
            raise EpisodeError(f"no operator knows {env_id!r}; they know: {', '.join(SCRIPTS)}")
        if name not in OPERATORS:
            raise EpisodeError(f"unknown operator {name!r}; known operators: {', '.join(OPERATORS)}")
        for trait in traits:
            if trait not in TRAITS:
                raise EpisodeError(f"unknown trait {trait!r}; known traits: {', '.join(TRAITS)}")
        self.name, self.added, self.scripts = name, frozenset(traits), SCRIPTS[env_id]
        self.variants: list[str] = []
        self.hands = Hands()
        self.length = 0

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        self.variants = [choose_variant(self.scripts, seed) for seed in seeds]
        given = zip(seeds, observation["env_state"], self.variants, strict=True)
        self._commands = [self.commands(*each) for each in given]
        self.length, self._t = max(map(len, self._commands)), 0

    def needs_images(self) -> bool:
        return False

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        t, self._t = self._t, self._t + 1
        return np.stack([commands[min(t, len(commands) - 1)] for commands in self._commands])

    def commands(self, seed: int, env_state: np.ndarray, variant: str | None = None) -> np.ndarray:
        """A whole episode from the object poses at its start, (T, 14) float32."""
        rng = np.random.default_rng([seed, 0x0F])
        variant = choose_variant(self.scripts, seed) if variant is None else variant
        script = self.scripts[variant](env_state.astype(np.float64), {arm: self.hands.home(arm) for arm in ARMS})
        given = OPERATORS[self.name]
        for name, trait in TRAITS.items():
            own = np.random.default_rng(rng.integers(2**63))  # a trait draws the same, whatever the others do
            present = self.name != "mixed" or own.uniform() < SOMETIMES
            if name in self.added or (name in given and present):
                script = trait(script, own, **given.get(name, {}))
        return self.hands.carry_out(script)
