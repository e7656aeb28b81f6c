"""Hand over: either arm picks up a cube and hands it to the other one; both variants are a success."""

import numpy as np

from envs.aloha import OTHER
from envs.bimanual import BimanualEnv, pose


class HandOverEnv(BimanualEnv):
    """A 4 cm, 50 g cube lies in the middle of the table, where both arms reach it: which one gives is a choice.

    The arm that first lifts it alone gives; the other one receives. Reward stages, after those of transfer cube: 1 a
    gripper touches the cube; 2 one alone, and the cube is off the table; 3 the receiving gripper touches the cube; 4
    and the cube is off the table.

    Strict success (`is_success`): for half a second on end the receiving gripper touches the cube, the cube touches
    neither the table nor the giving gripper.
    """

    model_file = "transfer_cube.xml"
    task = "Pick up the red cube with either arm and hand it over to the other arm."
    objects = ("cube",)
    variants = ("left", "right")  # which arm gives

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"cube": pose(rng.uniform((-0.04, 0.4), (0.04, 0.6)), 0.05)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        return {
            "left_touches": frozenset(("left_gripper", "cube")) in touching,
            "right_touches": frozenset(("right_gripper", "cube")) in touching,
            "lifted": frozenset(("table", "cube")) not in touching,
        }

    def detect_variant(self, terms: dict[str, bool]) -> str:
        alone = [arm for arm in self.variants if terms[f"{arm}_touches"]]
        return alone[0] if terms["lifted"] and len(alone) == 1 else ""

    def stage(self, terms: dict[str, bool]) -> int:
        if self.variant and terms[f"{self._receiver}_touches"]:
            return 4 if terms["lifted"] else 3
        if terms["left_touches"] or terms["right_touches"]:
            return 2 if self.variant and terms["lifted"] else 1
        return 0

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        if not self.variant:
            return False
        return terms[f"{self._receiver}_touches"] and terms["lifted"] and not terms[f"{self.variant}_touches"]

    @property
    def _receiver(self) -> str:
        return OTHER[self.variant]
