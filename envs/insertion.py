"""Insertion: the left arm lifts a socket, the right arm a peg, and the peg goes into the socket in mid-air."""

import numpy as np

from envs.bimanual import BimanualEnv, pose


class InsertionEnv(BimanualEnv):
    """A 12 × 2 × 2 cm peg on the right; on the left a socket with a 3.6 cm square bore and a pin in its middle.

    Reward stages (ACT, arXiv 2304.13705, section V-A, and its public code): 1 both grippers touch their part; 2 and
    both parts are off the table; 3 the peg touches the socket, both off the table; 4 the peg touches the pin.

    Published success: the highest reward of the episode is 4; one step is enough. Strict success (`is_success`): for
    half a second on end the peg's tip is inside the bore and no further than 2 mm from the pin, both parts are off the
    table, each is touched by its own gripper and by no other. Once reached it stays true for the episode.
    """

    model_file = "insertion.xml"
    task = "Pick up the blue socket with the left arm and the red peg with the right arm, and insert the peg."
    objects = ("peg", "socket")

    PEG_HALF = np.array([0.06, 0.01, 0.01])  # m
    BORE_HALF = 0.018  # m
    PIN_END = 0.04  # m from the socket's centre
    SEATED_GAP = 0.002  # m

    def sample_object_poses(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        peg = rng.uniform((0.1, 0.4), (0.2, 0.6))
        socket = rng.uniform((-0.2, 0.4), (-0.1, 0.6))
        return {"peg": pose(peg, 0.05), "socket": pose(socket, 0.05)}

    def terms(self, touching: set[frozenset[str]]) -> dict[str, bool]:
        def touch(a: str, b: str) -> bool:
            return frozenset((a, b)) in touching

        return {
            "right_touches_peg": touch("right_gripper", "peg"),
            "left_touches_socket": touch("left_gripper", "socket") or touch("left_gripper", "pin"),
            "peg_lifted": not touch("table", "peg"),
            "socket_lifted": not touch("table", "socket"),
            "peg_touches_socket": touch("peg", "socket"),
            "peg_touches_pin": touch("peg", "pin"),
            "peg_seated": self._peg_seated(),
            "hands_apart": not (touch("right_gripper", "socket") or touch("left_gripper", "peg")),
        }

    def stage(self, terms: dict[str, bool]) -> int:
        if terms["peg_touches_pin"]:
            return 4
        lifted = terms["peg_lifted"] and terms["socket_lifted"]
        if terms["peg_touches_socket"] and lifted:
            return 3
        if terms["right_touches_peg"] and terms["left_touches_socket"]:
            return 2 if lifted else 1
        return 0

    def goal_reached(self, terms: dict[str, bool]) -> bool:
        held = terms["right_touches_peg"] and terms["left_touches_socket"] and terms["hands_apart"]
        return terms["peg_seated"] and held and terms["peg_lifted"] and terms["socket_lifted"]

    def _part(self, geom: int) -> str:
        return "pin" if self.model.geom(geom).name == "pin" else super()._part(geom)

    def _peg_seated(self) -> bool:
        """Whether the end of the peg that faces the socket lies in the bore, at the pin."""
        peg, socket = self.data.body("peg"), self.data.body("socket")
        frame = socket.xmat.reshape(3, 3)
        centre = frame.T @ (peg.xpos - socket.xpos)  # the peg in the socket's frame
        axis = frame.T @ peg.xmat.reshape(3, 3)[:, 0]
        tip = centre - np.sign(axis[0] * centre[0]) * self.PEG_HALF[0] * axis
        inside = bool(np.all(np.abs(tip[1:]) < self.BORE_HALF))
        return inside and abs(tip[0]) - self.PIN_END < self.SEATED_GAP
