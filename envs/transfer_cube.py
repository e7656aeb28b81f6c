"""Transfer cube: the right arm picks a cube up and hands it to the left arm."""

import numpy as np

from envs.bimanual import BimanualEnv, pose


class TransferCubeEnv(BimanualEnv):
    """A 4 cm, 50 g cube lies somewhere on the right half of the table; the left arm shall end up holding it.

    Reward stages (ACT, arXiv 2304.13705, section V-A, and its public code): 1 the right gripper touches the cube;
    2 and the cube is off the table; 3 the left gripper touches the cube; 4 and the cube is off the table.

    Published success: the highest reward of the episode is 4; one step is enough. Strict success (`is_success`): for
    half a second on end the left gripper touches the cube, the cube touches neither the table nor the right gripper.
    Once reached it stays true for the episode.
    """

    model_file = "transfer_cube.xml"
    task = "Pick up the red cube with the right arm and hand it over to the left arm."
    objects = ("cube",)

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"cube": pose(rng.uniform((0.0, 0.4), (0.2, 0.6)), 0.05)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        return {
            "right_touches": frozenset(("right_gripper", "cube")) in touching,
            "left_touches": frozenset(("left_gripper", "cube")) in touching,
            "lifted": frozenset(("table", "cube")) not in touching,
        }

    def stage(self, terms: dict[str, bool]) -> int:
        if terms["left_touches"]:
            return 4 if terms["lifted"] else 3
        if terms["right_touches"]:
            return 2 if terms["lifted"] else 1
        return 0

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        return terms["left_touches"] and terms["lifted"] and not terms["right_touches"]
