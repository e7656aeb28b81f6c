"""Inverse kinematics of both arms: damped least squares on MuJoCo's Jacobians, joint limits respected.

An arm has six joints and a pose six dimensions, so each arm is solved alone. A path is solved step by step from the
previous solution, so the result is as smooth as the path.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import numpy as np

from envs.aloha import ARM_JOINTS, ARMS
from envs.bimanual import ASSETS
from envs.gl import mujoco


class BimanualIK:
    """Finds joint positions for target poses of the tool centre points.

    Args:
        damping: λ of (JᵀJ + λ²)Δq = Jᵀe. Larger is smoother near singular poses and slower to converge.
        tolerance: stop when the position error in m and the rotation error in rad are below it.
        max_steps: Gauss-Newton steps per solve.
        max_change: the largest change of a joint in one such step, rad.
        unroll: pulls the roll of the forearm to 0 where the wrist is stretched, because forearm and wrist could turn
            against each other without limit there; 0.01 suffices and costs no accuracy.
    """

    def __init__(
        self,
        damping: float = 0.01,
        tolerance: float = 1e-5,
        max_steps: int = 100,
        max_change: float = 0.2,
        unroll: float = 0.0,
    ):
        self.damping, self.tolerance, self.max_steps, self.max_change = damping, tolerance, max_steps, max_change
        self._pull = unroll**2 * np.array([name == "forearm_roll" for name in ARM_JOINTS], float)
        self.model = mujoco.MjModel.from_xml_path(str(ASSETS / "station.xml"))
        self.data = mujoco.MjData(self.model)
        self._joints = {arm: np.array([self.model.joint(f"{arm}_{name}").id for name in ARM_JOINTS]) for arm in ARMS}
        self._sites = {arm: self.model.site(f"{arm}_tcp").id for arm in ARMS}

    def forward(self, arm: str, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose of an arm's tool centre point: joints (6,) rad → position (3,) m, rotation (3, 3)."""
        self.data.qpos[self.model.jnt_qposadr[self._joints[arm]]] = joints
        mujoco.mj_kinematics(self.model, self.data)
        site = self._sites[arm]
        return self.data.site_xpos[site].copy(), self.data.site_xmat[site].reshape(3, 3).copy()

    def solve(
        self, arm: str, position: np.ndarray, rotation: np.ndarray, start: np.ndarray
    ) -> tuple[np.ndarray, float, float]:
        """Joints that bring a tool centre point to a pose, by a search from `start`.

        Args:
            arm: "left" or "right".
            position: (3,) m, world frame.
            rotation: (3, 3), world frame; x points ahead of the tool, y along the finger slides.
            start: (6,) rad.

        Returns:
            joints (6,) within their ranges, and the remaining position error in m and rotation error in rad. If the
            errors exceed the tolerance, the pose is out of reach, and the joints are the nearest that were found.
        """
        ids, site = self._joints[arm], self._sites[arm]
        dofs, limits = self.model.jnt_dofadr[ids], self.model.jnt_range[ids]
        jacobian = np.zeros((6, self.model.nv))
        joints = start.astype(np.float64)
        for _ in range(self.max_steps):
            at, facing = self.forward(arm, joints)
            error = np.concatenate([position - at, rotation_vector(rotation @ facing.T)])
            if np.abs(error).max() < self.tolerance:
                break
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], site)
            J = jacobian[:, dofs]
            # A joint at its limit that would move further is left out of this step.
            gradient = J.T @ error
            free = ~((joints <= limits[:, 0]) & (gradient < 0) | (joints >= limits[:, 1]) & (gradient > 0))
            J = J * free
            pull = self._pull * free * np.cos(joints[4]) ** 8  # the wrist angle is 0 where it is stretched
            change = np.linalg.solve(J.T @ J + np.diag(self.damping**2 + pull), J.T @ error - pull * joints)
            change *= min(1.0, self.max_change / (np.abs(change).max() + 1e-12))
            joints = np.clip(joints + change, limits[:, 0], limits[:, 1])
        at, facing = self.forward(arm, joints)
        remaining = np.linalg.norm(rotation_vector(rotation @ facing.T))
        return joints, float(np.linalg.norm(position - at)), float(remaining)

    def nudge(self, arm: str, joints: np.ndarray, offset: np.ndarray, damping: float = 0.1) -> np.ndarray:
        """Joints (6,) that move the tool centre point by about `offset` (3,) m; its orientation is free.

        One strongly damped step on the position alone: smooth in `joints` and `offset` even at singular poses.
        """
        ids = self._joints[arm]
        self.forward(arm, joints)
        mujoco.mj_comPos(self.model, self.data)
        jacobian = np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, self._sites[arm])
        J = jacobian[:, self.model.jnt_dofadr[ids]]
        limits = self.model.jnt_range[ids]
        change = J.T @ np.linalg.solve(J @ J.T + damping**2 * np.eye(3), offset)
        return np.clip(joints + change, limits[:, 0], limits[:, 1])


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle (3,) of a rotation matrix (3, 3)."""
    quaternion, vector = np.zeros(4), np.zeros(3)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) by axis times angle (3,)."""
    quaternion = np.array([1.0, 0.0, 0.0, 0.0])
    mujoco.mju_quatIntegrate(quaternion, vector, 1.0)
    return quaternion_matrix(quaternion)


def quaternion_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) of a unit quaternion w, x, y, z."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
