"""Lift tray: both arms lift a tray by its two handles and keep it level; a ball lies on it and must stay."""

import numpy as np

from envs.bimanual import BimanualEnv, pose


class LiftTrayEnv(BimanualEnv):
    """A tray of 40 cm, handles included, with a rim of a centimetre; a ball of 3.6 cm somewhere on it.

    One hand alone cannot: held at one end, 20 cm from its middle, the tray hangs down and the ball goes over the rim.

    Reward stages: 1 each gripper touches its handle; 2 and the tray is off the table; 3 and its middle is 10 cm above
    the table; 4 and it is level within 10°, the ball on it. Strict success (`is_success`): stage 4 for half a second on
    end, and level within 5°.
    """

    model_file = "lift_tray.xml"
    task = "Lift the tray with both arms, level, so that the ball stays on it."
    objects = ("tray", "ball")

    HEIGHT = 0.10  # m
    LEVEL, VERY_LEVEL = np.cos(np.radians([10, 5]))

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        tray = rng.uniform((-0.03, 0.42), (0.03, 0.58))
        ball = tray + rng.uniform((-0.10, -0.03), (0.10, 0.03))
        return {"tray": pose(tray, 0.005), "ball": pose(ball, 0.03)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        tray = self.data.body("tray")
        upright = tray.xmat.reshape(3, 3)[2, 2]
        return {
            "left_holds": frozenset(("left_gripper", "left_handle")) in touching,
            "right_holds": frozenset(("right_gripper", "right_handle")) in touching,
            "lifted": not {frozenset(("table", part)) for part in ("tray", *self.handles)} & touching,
            "high": tray.xpos[2] > self.HEIGHT,
            "level": upright > self.LEVEL,
            "very_level": upright > self.VERY_LEVEL,
            "ball_on_tray": frozenset(("ball", "tray")) in touching,
        }

    def stage(self, terms: dict[str, bool]) -> int:
        if not (terms["left_holds"] and terms["right_holds"]):
            return 0
        if not terms["lifted"]:
            return 1
        if not terms["high"]:
            return 2
        return 4 if terms["level"] and terms["ball_on_tray"] else 3

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        return self.stage(terms) == 4 and terms["very_level"]

    handles = ("left_handle", "right_handle")

    def _part(self, geom: int) -> str:
        name = self.model.geom(geom).name
        return name if name in self.handles else super()._part(geom)
