"""Motions of two arms, and the engine that turns them into joint trajectories.

A `Motion` is a list of segments per arm. A `Segment` leads a tool from wherever it is to a pose: on a straight line, or
along a straight line in joint space, which stays clear of the wrist's singular poses. Both arms first move on their
own (`alone`); the arm that finishes first waits for the other. Then both move in step (`together`).

`Tracking` says how joints follow the segments. There are two:

- `SMOOTH`: speed is a trapezoid over each segment. A motion that starts or ends slowly, such as a minimum-jerk one,
  resembles a pause, and a policy without memory that observes a pause stays in it.
- `PUBLISHED`: speed is constant over each segment, as in ACT's scripted_policy.py. No joint moves faster than 4 rad/s:
  where a straight line asks for more, near the stretched wrist, the joint lags.

Two options change a trajectory. `drift`, a part of the motion, moves the tool off its path; this is the motion.
`perturbations` move it off and back again away from contact, while the unperturbed joints remain the intention. A
policy that learns the intention sees how to recover (DART, Laskey et al. 2017, arXiv 1703.09327). Joint positions then
no longer predict the goal, so the policy has to use the images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from demos.ik import BimanualIK, quaternion_matrix, rotation_matrix, rotation_vector
from demos.spec import EpisodeError
from envs.aloha import ARMS, HOME_ARM, HOME_GRIPPER

RAMP = 8  # steps of acceleration at the start of a trapezoid, and of deceleration at its end
HORIZON = 400  # steps of a smooth motion
SETTLE = 22  # steps without a perturbation before contact
POSITION_TOLERANCE, ROTATION_TOLERANCE = 2e-3, 2e-2  # m, rad: what counts as out of reach

Kind = Literal["home", "free", "over", "reach", "close", "touch", "wait"]
"""What a segment ends with, for the traits: "free" in the air, "over" above the object, "reach" beside its surface,
"close" holding it, "touch" where the other hand or its part is, "wait" where it began."""


@dataclass(frozen=True)
class Tracking:
    """How the joints follow the segments of a motion.

    Args:
        profile: speed over a segment.
        max_iterations, unroll: of `BimanualIK`.
        max_joint_step: rad that a joint may move in a control step. None: no bound, and a pose out of reach is refused.
        min_steps: a shorter trajectory is held at its end until then.
    """

    profile: Literal["trapezoid", "constant"]
    max_iterations: int
    unroll: float
    max_joint_step: float | None
    min_steps: int = 0


SMOOTH = Tracking("trapezoid", max_iterations=100, unroll=0.0, max_joint_step=None, min_steps=HORIZON)
PUBLISHED = Tracking("constant", max_iterations=10, unroll=0.02, max_joint_step=4 / 50)


@dataclass(frozen=True)
class Segment:
    """One motion of a tool, from wherever it is to a pose."""

    steps: float  # duration in control steps
    position: np.ndarray  # (3,) m, world frame: where the tool centre point ends
    rotation: np.ndarray  # (4,) unit quaternion w, x, y, z, world frame
    gripper: float  # opening at the end, 0 closed … 1 open
    kind: Kind = "free"
    path: Literal["straight", "joints"] = "straight"
    unperturbed_steps: int | None = None  # no perturbation in so many steps before its end; None: in none of a straight
    contiguous: bool = False  # the next segment must follow at once


@dataclass(frozen=True)
class Motion:
    """Both arms' segments. The k-th segments of both arms in `together` take equally long."""

    alone: dict[str, list[Segment]]
    together: dict[str, list[Segment]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    tracking: Tracking = PUBLISHED
    drift: dict[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    """Arm → a function of the drift scale at each step, (T,) 0 to 1, to the offset of its tool, (T, 3) m."""


def pause(after: Segment, steps: float) -> Segment:
    """Standing still where a segment ended."""
    return replace(after, kind="wait", steps=steps, contiguous=False)


def duration(segments: list[Segment]) -> float:
    """Steps that segments take, one after the other."""
    return sum(segment.steps for segment in segments)


def drift_scale(segments: list[Segment]) -> np.ndarray:
    """How far the tool may drift in each segment, (segments,): 1 in the air, 0 near contact."""
    scale = []
    for segment in segments:
        waits = segment.kind == "wait" and scale
        scale.append(scale[-1] if waits else float(segment.kind in ("free", "over")))
    scale[0] = 0.0
    return np.array(scale)


def trapezoid(steps: int) -> np.ndarray:
    """Share of a segment that is done after each of its steps, (steps,), the last one 1: speed is a trapezoid."""
    i = np.arange(steps) + 0.5
    speed = np.minimum(1.0, np.minimum(i, steps - i) / RAMP)
    return speed.cumsum() / speed.sum()


def perturbations(rng: np.random.Generator, size: float, allowed: np.ndarray) -> np.ndarray:
    """Smooth random bumps (T, 3) in m, one after the other, each zero at its ends and only where `allowed` (T,)."""
    offset = np.zeros((len(allowed), 3))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], allowed.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        t = start
        while stop - t >= 20:
            length = min(int(rng.integers(20, 50)), stop - t)
            bump = np.sin(np.pi * np.arange(length) / length) ** 2
            offset[t : t + length] = bump[:, None] * rng.normal(0.0, size, 3) * [1, 1, 0.5]
            t += length
    offset[:, 2] = np.abs(offset[:, 2])  # upwards: the table is below
    return offset


class MotionEngine:
    """Turns motions into joint trajectories."""

    def __init__(self) -> None:
        self._solvers: dict[Tracking, BimanualIK] = {}

    def home(self, arm: str) -> Segment:
        """The segment with which every motion of an arm begins: the home pose, in no time."""
        position, rotation = self._ik(PUBLISHED).forward(arm, np.array(HOME_ARM))
        vector = rotation_vector(rotation)
        angle = float(np.linalg.norm(vector))
        axis = vector / (angle or 1.0)
        quaternion = np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)])
        return Segment(0, position, quaternion, HOME_GRIPPER, "home")

    def from_home(self, motion: Motion) -> Motion:
        """The motion with the home segment before the others of each arm."""
        return replace(motion, alone={arm: [self.home(arm), *each] for arm, each in motion.alone.items()})

    def trajectory(
        self, motion: Motion, rng: np.random.Generator | None = None, perturbation: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Commands, and what they would be without perturbations: (T, 14) float32 both.

        Args:
            motion: begins with the home segments, see `from_home`.
            rng: draws the perturbations.
            perturbation: their standard deviation, m.

        Raises:
            EpisodeError: a pose is out of reach, and the motion's tracking does not allow that.
        """
        meeting = max(duration(segments) for segments in motion.alone.values())
        steps = max(motion.tracking.min_steps, round(meeting + duration(motion.together["left"])))
        commanded, intended = [], []
        for arm in ARMS:
            own, shared = motion.alone[arm], motion.together[arm]
            wait = [pause(own[-1], meeting - duration(own))] if shared else []
            joints, gripper, allowed = self._follow(arm, [*own, *wait, *shared], steps, motion)
            intended += [joints, gripper]
            if perturbation > 0 and rng is not None:
                offsets = perturbations(rng, perturbation, allowed)
                ik = self._ik(motion.tracking)
                joints = np.stack([ik.nudge(arm, *each) for each in zip(joints, offsets, strict=True)])
            commanded += [joints, gripper]
        commands, intentions = (np.concatenate(c, axis=1).astype(np.float32) for c in (commanded, intended))
        return commands, intentions

    def _follow(
        self, arm: str, segments: list[Segment], steps: int, motion: Motion
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joints (steps, 6), gripper openings (steps, 1), and where perturbations are allowed (steps,)."""
        tracking = motion.tracking
        ends = np.cumsum([segment.steps for segment in segments])
        now = np.arange(1, steps + 1)  # step t commands where to be at t + 1
        index = np.clip(np.searchsorted(ends, now), 1, len(segments) - 1)
        share = _shares(segments, ends, now, index, tracking.profile)
        positions, openings = np.stack([s.position for s in segments]), np.array([[s.gripper] for s in segments])
        line = (1 - share) * positions[index - 1] + share * positions[index]
        gripper = (1 - share) * openings[index - 1] + share * openings[index]
        if arm in motion.drift:
            line = line + motion.drift[arm](drift_scale(segments)[index])
        joints = self._solve_path(arm, segments, index, share[:, 0], line, int(np.ceil(ends[-1])), tracking)
        last_allowed = np.array([ends[i] - _unperturbed_steps(segment) for i, segment in enumerate(segments)])
        return joints, gripper, now - 1 < last_allowed[index]

    def _solve_path(
        self,
        arm: str,
        segments: list[Segment],
        index: np.ndarray,
        share: np.ndarray,
        line: np.ndarray,
        end: int,
        tracking: Tracking,
    ) -> np.ndarray:
        """Joints (T, 6) that follow the segments `index` (T,) at their `share` (T,), in space the `line` (T, 3)."""
        rotations = [quaternion_matrix(segment.rotation) for segment in segments]
        turns = [np.zeros(3), *(rotation_vector(b @ a.T) for a, b in pairwise(rotations))]
        at, joints = np.array(HOME_ARM), np.empty((len(index), 6))
        goal: tuple | None = None
        solved = begin = at
        for t, i in enumerate(index):
            segment = segments[i]
            if t >= end and tracking.max_joint_step is None:
                pass  # the arm has arrived; a bounded one may still lag behind its end
            elif segment.path == "joints":
                if t == 0 or i != index[t - 1]:
                    begin, at = at, self._solve(arm, segment.position, rotations[i], at, tracking)
                joints[t] = begin + share[t] * (at - begin)
                continue
            else:
                before, goal = goal, (*line[t], *(share[t] * turns[i]), i if turns[i].any() else -1)
                if tracking.max_joint_step is None or goal != before:
                    rotation = rotation_matrix(share[t] * turns[i]) @ rotations[i - 1]
                    solved = self._solve(arm, line[t], rotation, at, tracking)
                at = _towards(at, solved, tracking.max_joint_step)
            joints[t] = at
        return joints

    def _solve(
        self, arm: str, position: np.ndarray, rotation: np.ndarray, start: np.ndarray, tracking: Tracking
    ) -> np.ndarray:
        joints, miss, turn = self._ik(tracking).solve(arm, position, rotation, start)
        if tracking.max_joint_step is None and (miss > POSITION_TOLERANCE or turn > ROTATION_TOLERANCE):
            raise EpisodeError(
                f"the {arm} arm cannot reach {position}: it misses by {miss * 1e3:.1f} mm, {turn:.3f} rad"
            )
        return joints

    def _ik(self, tracking: Tracking) -> BimanualIK:
        if tracking not in self._solvers:
            self._solvers[tracking] = BimanualIK(max_steps=tracking.max_iterations, unroll=tracking.unroll)
        return self._solvers[tracking]


def _shares(segments: list[Segment], ends: np.ndarray, now: np.ndarray, index: np.ndarray, profile: str) -> np.ndarray:
    """Share (T, 1) of each step's segment that is done then."""
    steps = np.array([segment.steps for segment in segments], float)[index]
    left = ends[index] - now
    if profile == "constant":
        share = np.clip(1 - left / np.maximum(steps, 1e-9), 0, 1)
    else:
        done = [np.concatenate([[0.0], trapezoid(max(1, round(segment.steps)))]) for segment in segments]
        each = zip(steps - left, index, strict=True)
        share = np.array([np.interp(elapsed, np.arange(len(done[i])), done[i]) for elapsed, i in each])
    share[now > np.ceil(ends[-1])] = 1.0
    return share[:, None]


def _unperturbed_steps(segment: Segment) -> float:
    if segment.unperturbed_steps is None:
        return segment.steps if segment.path == "straight" else 0
    return segment.unperturbed_steps


def _towards(at: np.ndarray, goal: np.ndarray, most: float | None) -> np.ndarray:
    """The goal, or as near to it as joints get that move by so much at the most."""
    return goal if most is None else at + np.clip(goal - at, -most, most)
