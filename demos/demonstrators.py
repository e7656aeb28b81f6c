"""Demonstrators: a motion of the task, the traits that change it, and the probability of each trait in an episode.

`DEMONSTRATORS` is the only list of them: scripts/record.py offers its rows, and a new demonstrator is a new row. All
follows from the seed of an episode. What a trait changes is commanded and recorded, with no intention beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from demos.motion import HORIZON, Motion, MotionEngine
from demos.spec import EpisodeError
from demos.tasks import TASKS, choose_variant
from demos.traits import TRAITS


@dataclass(frozen=True)
class Row:
    """One demonstrator.

    Args:
        summary: for --help.
        motion: which of the task's motions it performs, see `demos.tasks.Task`.
        traits: its traits, each with the arguments that set its strength.
        chance: the probability of each trait in an episode.
    """

    summary: str = field(repr=False)
    motion: Literal["smooth", "published"] = "published"
    traits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    chance: float = 1.0


DEMONSTRATORS: dict[str, Row] = {
    "expert": Row("short and smooth", "smooth"),
    "plain": Row("moves as ACT's own scripts"),
    "careful": Row(
        "slow, with pauses",
        traits={
            "overshoot": {"chance": 0.3},
            "tempo": {"slowest": 0.5, "fastest": 0.9},
            "pauses": {},
            "idle_ends": {},
            "wander": {"size": 0.006},
        },
    ),
    "hasty": Row(
        "fast, with failed grasps",
        traits={
            "misses": {"chance": 0.4},
            "overshoot": {},
            "tempo": {"slowest": 0.9, "fastest": 1.5},
            "pauses": {"chance": 0.3, "longest": 0.5},
            "wander": {},
        },
    ),
    "mixed": Row("other traits in every episode", traits={name: {} for name in TRAITS}, chance=0.5),
}
"""Name → demonstrator. The first one is the default of scripts/record.py."""

DEFAULT = next(iter(DEMONSTRATORS))
LONGEST = 5000
"""More steps than any episode takes."""


def check(name: str, noise: float, traits: Sequence[str]) -> None:
    """Refuses a demonstrator that cannot be had.

    Raises:
        EpisodeError: unknown demonstrator or trait, or noise and traits where its motion takes none.
    """
    if name not in DEMONSTRATORS:
        raise EpisodeError(f"unknown demonstrator {name!r}; known demonstrators: {', '.join(DEMONSTRATORS)}")
    for trait in traits:
        if trait not in TRAITS:
            raise EpisodeError(f"unknown trait {trait!r}; known traits: {', '.join(TRAITS)}")
    if noise and DEMONSTRATORS[name].motion == "published":
        known = (each for each, row in DEMONSTRATORS.items() if row.motion == "smooth")
        raise EpisodeError(f"noise {noise:g} has no effect on {name}; it perturbs {', '.join(known)}")
    if traits and DEMONSTRATORS[name].motion == "smooth":
        known = (each for each, row in DEMONSTRATORS.items() if row.motion == "published")
        raise EpisodeError(f"{name} takes no traits ({', '.join(traits)}); these demonstrators do: {', '.join(known)}")


class Demonstrator:
    """An agent that demonstrates a task: it plans a whole episode from the object poses at its start.

    Args:
        env_id: the task, by its Gymnasium id.
        name: one of `DEMONSTRATORS`.
        noise: standard deviation of the expert's perturbations in metres; 0.02 to 0.05 is useful.
        traits: more of `TRAITS`, at their usual strength.

    Attributes:
        intended: (N, 14) what the last call would have commanded without perturbations.
        length: steps of the longest of the present episodes; the agent holds its last command afterwards.
        variants: of the present episodes, "" where the task has one. Where it has several, the seed decides.

    Raises:
        EpisodeError: see `check`, or a task without a motion.
    """

    cameras: tuple[str, ...] = ()
    intended: np.ndarray | None = None

    def __init__(self, env_id: str, name: str = DEFAULT, noise: float = 0.0, traits: Sequence[str] = ()):
        check(name, noise, traits)
        if env_id not in TASKS:
            raise EpisodeError(f"there is no motion for {env_id!r}; there are motions for: {', '.join(TASKS)}")
        self.name, self.noise, self.added, self.row = name, noise, frozenset(traits), DEMONSTRATORS[name]
        self.motions = TASKS[env_id].motions(self.row.motion)
        self.variants: list[str] = []
        self.engine = MotionEngine()
        self.length = 0

    @property
    def horizon(self) -> int:
        """Steps of an episode at the most."""
        return HORIZON if self.row.motion == "smooth" else LONGEST

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        self.variants = [choose_variant(self.motions, seed) for seed in seeds]
        given = zip(seeds, observation["env_state"], self.variants, strict=True)
        self._episodes = [self.commands(*each) for each in given]
        self.length, self._t = max(len(commands) for commands, _ in self._episodes), 0

    def needs_images(self) -> bool:
        return False

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        t, self._t = self._t, self._t + 1
        commands, self.intended = (
            np.stack([each[min(t, len(each) - 1)] for each in kind]) for kind in zip(*self._episodes, strict=True)
        )
        return commands

    def commands(self, seed: int, env_state: np.ndarray, variant: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A whole episode from the object poses at its start: commands, and the same without perturbations.

        Both are (T, 14) float32.
        """
        # A stream of its own, so that the perturbations do not repeat the numbers that placed the objects.
        rng = np.random.default_rng([seed, 0xDE])
        return self.engine.trajectory(self.motion(seed, env_state, variant), rng, self.noise)

    def motion(self, seed: int, env_state: np.ndarray, variant: str | None = None) -> Motion:
        """What the demonstrator does in the episode of a seed."""
        rng = np.random.default_rng([seed, 0x0F])
        variant = choose_variant(self.motions, seed) if variant is None else variant
        motion = self.engine.from_home(self.motions[variant](env_state.astype(np.float64)))
        for name, trait in TRAITS.items():
            own = np.random.default_rng(rng.integers(2**63))  # a trait draws the same, whatever the others do
            present = self.row.chance == 1 or own.uniform() < self.row.chance
            if name in self.added or (name in self.row.traits and present):
                motion = trait(motion, own, **self.row.traits.get(name, {}))
        return motion
