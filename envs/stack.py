"""Stack: each arm fetches its block, and one is put on the other in the middle; which one comes first is a choice."""

import numpy as np

from envs.bimanual import BimanualEnv, pose


class StackEnv(BimanualEnv):
    """Two blocks of 4.4 cm, one at either side; a white mark in the middle, where the tower is to stand.

    One arm alone must not: once a gripper has touched the other arm's block, nothing counts as strict success any more.
    With a hand that points down it could not either: the other block is 0.63 m or more away, and it reaches 0.60 m.

    Reward stages: 1 a gripper touches its block; 2 and it is off the table; 3 a block stands on the mark; 4 the other
    one stands on it. Strict success (`is_success`): for half a second on end, nobody touching either.
    """

    model_file = "stack.xml"
    task = "Build a tower of both blocks on the white mark, each arm with its own block."
    objects = ("left_block", "right_block")
    variants = ("left", "right")  # whose block is at the bottom

    MARK = np.array([0.0, 0.5])  # m
    BLOCK_HALF = 0.022  # m
    NEAR = 0.03  # m, from the mark

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        self._fair = True  # so far each hand has kept to its block
        left, right = rng.uniform((-0.24, 0.4), (-0.16, 0.6)), rng.uniform((0.16, 0.4), (0.24, 0.6))
        return {"left_block": pose(left, 0.05), "right_block": pose(right, 0.05)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        other = {frozenset(("left_gripper", "right_block")), frozenset(("right_gripper", "left_block"))}
        self._fair = self._fair and not other & touching
        terms = {"stacked": frozenset(self.objects) in touching, "fair": self._fair}
        for arm, block in zip(self.variants, self.objects, strict=True):
            place = self.data.body(block).xpos
            on_mark = bool(np.linalg.norm(place[:2] - self.MARK) < self.NEAR)
            on_table = frozenset(("table", block)) in touching
            terms |= {
                f"{arm}_touches": frozenset((f"{arm}_gripper", block)) in touching,
                f"{arm}_off": not on_table,
                f"{arm}_bottom": on_mark and on_table,
                f"{arm}_top": on_mark and not on_table and abs(place[2] - 3 * self.BLOCK_HALF) < 0.006,
            }
        return terms

    def detect_variant(self, terms: dict[str, bool]) -> str:
        done = [arm for arm in self.variants if terms[f"{arm}_bottom"] and not terms[f"{arm}_touches"]]
        return done[0] if len(done) == 1 else ""

    def stage(self, terms: dict[str, bool]) -> int:
        if terms["stacked"] and any(terms[f"{a}_bottom"] and terms[f"{b}_top"] for a, b in self._orders):
            return 4
        if any(terms[f"{arm}_bottom"] and not terms[f"{arm}_touches"] for arm in self.variants):
            return 3
        touched = [arm for arm in self.variants if terms[f"{arm}_touches"]]
        return 2 if any(terms[f"{arm}_off"] for arm in touched) else 1 if touched else 0

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        left_alone = not (terms["left_touches"] or terms["right_touches"])
        return self.stage(terms) == 4 and left_alone and terms["fair"]

    _orders = (("left", "right"), ("right", "left"))
