"""Give cube: one of two cubes is handed over, by either arm: four variants, which only an instruction tells apart."""

import numpy as np

from envs.aloha import ARMS, OTHER
from envs.bimanual import BimanualEnv, pose

COLOURS = ("red", "blue")


class GiveCubeEnv(BimanualEnv):
    """A red and a blue cube of 4 cm lie in the middle of the table, one nearer than the other, where both arms reach.

    The arm that first lifts one of them alone gives that one; the other arm receives. Stages and strict success are
    those of `envs.hand_over`, of this cube; any of the four variants is a success.
    """

    model_file = "give_cube.xml"
    task = "Pick up one of the cubes with one arm and hand it over to the other arm."
    objects = tuple(f"{colour}_cube" for colour in COLOURS)
    variants = tuple(f"{colour}_{giver}" for colour in COLOURS for giver in ARMS)

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        near, far = rng.uniform((-0.04, 0.4), (0.04, 0.44)), rng.uniform((-0.04, 0.56), (0.04, 0.6))
        order = rng.permutation(2)
        return {self.objects[i]: pose(place, 0.05) for i, place in zip(order, (near, far), strict=True)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        terms = {}
        for colour, cube in zip(COLOURS, self.objects, strict=True):
            terms[f"{colour}_lifted"] = frozenset(("table", cube)) not in touching
            terms |= {f"{arm}_touches_{colour}": frozenset((f"{arm}_gripper", cube)) in touching for arm in ARMS}
        return terms

    def detect_variant(self, terms: dict[str, bool]) -> str:
        for colour in COLOURS:
            alone = [arm for arm in ARMS if terms[f"{arm}_touches_{colour}"]]
            if terms[f"{colour}_lifted"] and len(alone) == 1:
                return f"{colour}_{alone[0]}"
        return ""

    def stage(self, terms: dict[str, bool]) -> int:
        if not self.variant:
            return int(any(terms[f"{arm}_touches_{colour}"] for arm in ARMS for colour in COLOURS))
        colour, giver, receiver = self._roles
        if terms[f"{receiver}_touches_{colour}"]:
            return 4 if terms[f"{colour}_lifted"] else 3
        if terms[f"{giver}_touches_{colour}"]:
            return 2 if terms[f"{colour}_lifted"] else 1
        return 0

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        if not self.variant:
            return False
        colour, giver, receiver = self._roles
        received = terms[f"{receiver}_touches_{colour}"] and terms[f"{colour}_lifted"]
        return received and not terms[f"{giver}_touches_{colour}"]

    @property
    def _roles(self) -> tuple[str, str, str]:
        """Colour, giver and receiver of the way that is taken."""
        colour, giver = self.variant.split("_")
        return colour, giver, OTHER[giver]
