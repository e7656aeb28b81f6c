"""What the numbers of an episode say about its robot and its actions, where the file does not say it."""

from dataclasses import replace

import numpy as np

from demos.robot import ALOHA, Robot, Unit
from demos.spec import ActionSemantics

SLACK = 0.15  # rad beyond a limit that a calibration may be off
WINDOW = 0.1  # s over which changes of action and joints are compared: a robot lags behind its commands
FEWEST_STEPS = 10  # from which anything is concluded


def is_aloha(qpos: np.ndarray, action: np.ndarray, fps: float | None) -> bool:
    """Whether 14 joints without names are ALOHA's: in rad, within its limits, grippers from 0 to 1, at 50 Hz."""
    if action.shape != qpos.shape or qpos.shape[1] != len(ALOHA.joint_names) or abs((fps or 50.0) - 50.0) > 1:
        return False
    grippers = list(ALOHA.grippers)
    openings = np.concatenate([qpos[:, grippers], action[:, grippers]])
    if openings.min() < -0.25 or openings.max() > 1.25 or openings.max() < 0.25:
        return False
    values = np.concatenate([qpos, action])
    return all(
        limit is None or (values[:, i].min() >= limit[0] - SLACK and values[:, i].max() <= limit[1] + SLACK)
        for i, limit in enumerate(ALOHA.limits)
    )


def with_units_of(robot: Robot, qpos: np.ndarray) -> tuple[Robot, str]:
    """The robot in the units that keep `qpos`, (T, J), within its limits; and a note if they are not rad."""
    limited = [i for i, unit in enumerate(robot.units) if unit == "rad" and robot.limit(i) and i not in robot.grippers]
    if not limited:
        return robot, ""
    low, high = np.array([robot.limits[i] for i in limited]).T
    values = qpos[:, limited]

    def share(scaled: np.ndarray) -> float:
        return float(((scaled >= low - SLACK) & (scaled <= high + SLACK)).mean())

    shares: dict[Unit, float] = {"deg": share(np.radians(values)), "percent": float((np.abs(values) <= 105).mean())}
    best = "deg" if shares["deg"] >= shares["percent"] else "percent"
    if share(values) > 0.9 or share(values) >= shares[best]:
        return robot, ""
    units = tuple(best if i in limited else unit for i, unit in enumerate(robot.units))
    words = {"deg": "degrees", "percent": "-100 … 100 over the limits"}[best]
    return replace(robot, units=units), f"joint positions are read as {words}: in rad they are beyond the limits"


def guess_semantics(qpos: np.ndarray, action: np.ndarray, robot: Robot) -> tuple[ActionSemantics, str]:
    """What actions (T, A) command, and why: whether they, or their changes, go with the changes of qpos (T, J).

    Actions with at least as many columns as qpos may be joint positions, others are taken for an end effector's.
    """
    joints, enough = qpos.shape[1], len(qpos) >= FEWEST_STEPS
    if action.shape[1] >= joints:
        if not enough:
            return "absolute_joints", "there are too few steps to tell"
        arms = [i for i in range(joints) if i not in robot.grippers and np.ptp(qpos[:, i]) > 1e-3]
        moved, changed, commanded = _changes(qpos[:, arms], action[:, arms], robot.steps(WINDOW))
        follows = [_correlation(moved[:, i], changed[:, i]) for i in range(len(arms))]
        goes_with = [_correlation(moved[:, i], commanded[:, i]) for i in range(len(arms))]
        if not arms or np.median(follows) >= max(0.3, np.median(goes_with)):
            return "absolute_joints", "joints follow actions"
        if np.median(goes_with) > 0.3:
            return "relative_joints", "joints move as actions say, rather than to where they say"
    if not enough:
        return "absolute_ee", "there are fewer actions than joints, and too few steps to tell more"
    moved, changed, commanded = _changes(qpos, action, robot.steps(WINDOW))
    few = "there are fewer actions than joints" if action.shape[1] < joints else "no joint follows its action"
    if _explained(moved, commanded) > _explained(moved, changed):
        return "relative_ee", f"{few}, and joints move as actions say"
    return "absolute_ee", f"{few}, and joints move as actions change"


def _changes(qpos: np.ndarray, action: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over each window of steps: how far the joints moved, how far the action changed, and the mean action."""
    window = min(window, len(qpos) - 1)
    total = np.concatenate([np.zeros_like(action[:1]), action.astype(np.float64).cumsum(axis=0)])
    mean = (total[window:-1] - total[: -window - 1]) / window
    return qpos[window:] - qpos[:-window], action[window:] - action[:-window], mean


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-12 else 0.0


def _explained(moved: np.ndarray, values: np.ndarray) -> float:
    """The share of the variance of the best explained half of `values` (N, A) that is linear in `moved` (N, J)."""
    x = np.column_stack([moved - moved.mean(axis=0), np.ones(len(moved))])
    residual = values - x @ np.linalg.lstsq(x, values, rcond=1e-6)[0]
    variance = values.var(axis=0)
    shares = np.sort(1 - residual.var(axis=0)[variance > 1e-12] / variance[variance > 1e-12])
    return float(shares[len(shares) // 2 :].mean()) if len(shares) else 0.0
