"""Instructions of episodes, drawn from the phrases of `demos.tasks`."""

import re
from collections.abc import Sequence
from itertools import product

import numpy as np

from demos.tasks import TASKS, choose_variant

PHRASINGS_PER_EPISODE = 12

SEEN = {env_id: task.phrases for env_id, task in TASKS.items()}
"""Task → variant → grammars."""
UNSEEN = {env_id: task.unseen_phrases for env_id, task in TASKS.items()}
"""Task → variant → sentences."""


def phrasings(env_id: str, variant: str = "") -> list[str]:
    """All sentences of the grammars of a task and variant; none for an unknown task."""
    return [sentence for grammar in SEEN.get(env_id, {}).get(variant, ()) for sentence in expanded(grammar)]


def sample_phrasings(env_id: str, variant: str, seed: int) -> list[str]:
    """The phrasings of the instruction in the demonstration of a seed: a random selection."""
    known = phrasings(env_id, variant)
    rng = np.random.default_rng([seed, 0x5A])
    return [known[i] for i in rng.permutation(len(known))[:PHRASINGS_PER_EPISODE]]


def instruction_for(env_id: str, variant: str, seed: int, unseen: bool = False) -> str | None:
    """The instruction of the episode of a seed that requests a variant; None for an unknown task."""
    known = UNSEEN.get(env_id, {}).get(variant, ()) if unseen else sample_phrasings(env_id, variant, seed)
    return known[seed % len(known)] if known else None


def sample_instruction(env_id: str, seed: int) -> str:
    """The instruction of the episode of a seed, for a variant that the seed decides; "" for an unknown task."""
    return instruction_for(env_id, choose_variant(SEEN.get(env_id, {"": ()}), seed), seed) or ""


def language_attributes(env_id: str, variant: str, seed: int, given: Sequence[str] = ()) -> dict[str, str | list[str]]:
    """Root attributes of a file: the variant, and the instruction in phrasings that are `given` or selected."""
    words = list(given) or sample_phrasings(env_id, variant, seed)
    return {**({"variant": variant} if variant else {}), **({"instruction": words} if words else {})}


def expanded(grammar: str) -> list[str]:
    """Every sentence of a grammar."""
    parts = re.split(r"\{(.*?)\}", grammar)  # plain text and alternatives in turn
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(words) for words in product(*choices)]
