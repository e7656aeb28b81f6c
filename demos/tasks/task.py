"""What demos know of a task: two motions and the phrases for its instruction, for each of its variants."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from demos.motion import Motion

MotionOf = Callable[[np.ndarray], Motion]
"""Object poses (7 · objects,) float64 at the start of an episode → the motion, without the home segments."""


@dataclass(frozen=True)
class Task:
    """The motions and phrases of a task; each maps a variant, "" where there is one, to its own.

    Args:
        smooth: the expert's motion, made to be imitated.
        published: the motion of all others: timings and offsets of ACT's scripted_policy.py, where it has the task.
        phrases: grammars of instructions, in which `{a|b}` stands for a or b. Demonstrations have these.
        unseen_phrases: other sentences that mean the same, which no demonstration has: a policy that follows them has
            learnt more than labels. The first five were written with the grammars, the others without sight of them.
    """

    smooth: Mapping[str, MotionOf]
    published: Mapping[str, MotionOf]
    phrases: Mapping[str, tuple[str, ...]]
    unseen_phrases: Mapping[str, tuple[str, ...]]

    def motions(self, kind: Literal["smooth", "published"]) -> Mapping[str, MotionOf]:
        return self.smooth if kind == "smooth" else self.published


def choose_variant(variants: Mapping[str, object], seed: int) -> str:
    """The variant of an episode, each as often as the others. It has a random stream of its own."""
    return list(variants)[np.random.default_rng([seed, 0x3A]).integers(len(variants))]


def filled(phrases: tuple[str, ...], **words: str) -> tuple[str, ...]:
    """The phrases with words in place of the names in capitals."""
    for name, word in words.items():
        phrases = tuple(phrase.replace(name, word) for phrase in phrases)
    return phrases
