"""Tip: the left arm holds a bowl in the air, and the right arm tips the balls out of a cup into it."""

import numpy as np

from envs.bimanual import BimanualEnv, pose

BALLS = 5


class TipEnv(BimanualEnv):
    """Five balls of 1.8 cm in a cup of 8 cm on the right; a bowl of 14 cm with a handle on the left.

    One hand alone cannot: cup and bowl must both be in the air while the balls go from one to the other.

    Reward stages: 1 both grippers touch their vessel; 2 and both are off the table; 3 and a ball is in the bowl; 4 four
    of the five balls are. Strict success (`is_success`): stage 4 for half a second on end.
    """

    model_file = "tip.xml"
    task = "Hold the bowl in the air with the left arm and tip the balls out of the cup into it with the right arm."
    objects = ("cup", "bowl", *(f"ball_{i}" for i in range(BALLS)))

    ENOUGH = 4  # balls
    BOWL = np.array([0.07, 0.07, 0.04])  # m, half, half, height

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        cup, bowl = rng.uniform((0.02, 0.42), (0.12, 0.58)), rng.uniform((-0.16, 0.44), (-0.08, 0.56))
        beside = [(-0.0095, -0.0095), (0.0095, -0.0095), (-0.0095, 0.0095), (0.0095, 0.0095)]
        inside = [pose(cup + offset, 0.016) for offset in beside] + [pose(cup, 0.032)]
        balls = {f"ball_{i}": place for i, place in enumerate(inside)}
        return {"cup": pose(cup, 0.001), "bowl": pose(bowl, 0.001), **balls}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        inside = self._balls_in_bowl()
        return {
            "left_holds_bowl": frozenset(("left_gripper", "bowl")) in touching,
            "right_holds_cup": frozenset(("right_gripper", "cup")) in touching,
            "bowl_lifted": frozenset(("table", "bowl")) not in touching,
            "cup_lifted": frozenset(("table", "cup")) not in touching,
            "one_in_bowl": inside >= 1,
            "enough_in_bowl": inside >= self.ENOUGH,
        }

    def stage(self, terms: dict[str, bool]) -> int:
        if not (terms["left_holds_bowl"] and terms["right_holds_cup"]):
            return 0
        if not (terms["bowl_lifted"] and terms["cup_lifted"]):
            return 1
        return 4 if terms["enough_in_bowl"] else 3 if terms["one_in_bowl"] else 2

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        return self.stage(terms) == 4

    def _balls_in_bowl(self) -> int:
        bowl = self.data.body("bowl")
        balls = np.stack([self.data.body(f"ball_{i}").xpos for i in range(BALLS)])
        within = (balls - bowl.xpos) @ bowl.xmat.reshape(3, 3)  # in the bowl's frame
        half, _, height = self.BOWL
        return int(np.sum((np.abs(within[:, :2]) < half).all(axis=1) & (within[:, 2] > 0) & (within[:, 2] < height)))
