"""What a demonstration shows in hindsight: where each arm was going, what it did not intend, when it paused.

All are read off actions and joint positions alone, so they need no simulator and no labels. They work for every robot,
rate and action semantics: where actions are no joint positions, the positions reached stand for them
(`demos.grasps.joint_targets`).

- The *keyframe* of a step is where each arm's tool is when its gripper next begins to close or to open: the next grasp
  or release. (Keyframes at gripper events: James and Davison 2022, arXiv 2105.14829, section 4.) As an auxiliary target
  it teaches a network what to look for, which the actions of the next second hardly do. Without a chain, a keyframe is
  the joints instead of the tool's position.
  A keyframe holds until the gripper has visibly done half of what it does there. If it ended as soon as the command
  begins to change, nothing in the observation would show whether a hand at an object still has to grasp it, and a
  policy that takes the next keyframe for this one turns back above the object.
- A *failed grasp* (`demos.grasps`) is a closing on nothing that was undone and tried again. A policy that learns from
  them closes its hands in the air. Training targets leave them out: the gripper stays open, and the arm omits the way
  to the failed grasp and back.
- An *idle step* is one in which neither arm nor gripper moves. A policy without memory that learns from standing still
  learns to stand still, so training leaves these steps out.
"""

from collections.abc import Sequence

import numpy as np

from demos.grasps import (
    APPROACH,
    LAG,
    SMALLEST_SPAN,
    FailedGrasp,
    as_slice,
    closing_sign,
    find_failed_grasps,
    gripper_command,
    gripper_events,
    has_own_unit,
    joint_targets,
)
from demos.kinematics import forward_kinematics
from demos.robot import Arm, Robot
from demos.spec import EpisodeSpec

SLOW = 0.1  # share of the usual speed below which an arm stands still
GRIPPER_SLOW = 0.25  # of its span a second, below which a gripper stands still
SMOOTHED = 0.04  # s before and after a step over which an arm's speed is averaged
CLOSE = 0.05  # rad, sum over an arm: as good as the same
SETTLES = 0.2  # s of every pause that are kept: the arms lag behind their commands


def keyframe_dim(robot: Robot) -> int:
    """K, the length of a keyframe."""
    return sum(map(len, keyframe_parts(robot)))


def keyframe_parts(robot: Robot) -> list[tuple[int, ...]]:
    """The columns of a keyframe that belong together: those of each arm, then those of no arm.

    With kinematics an arm has x, y, z in m from its base and the gripper's opening afterwards, 0 if it has none; a
    keyframe of other robots is their joints.
    """
    if robot.has_kinematics:
        return [tuple(range(4 * i, 4 * i + 4)) for i in range(len(robot.arms))]
    arms = [arm.columns for arm in robot.arms]
    rest = tuple(i for i in range(len(robot.joint_names)) if not any(i in columns for columns in arms))
    return [*arms, *([rest] if rest else [])]


def keyframes(action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, from_grasp: bool = False) -> np.ndarray:
    """The keyframe of every step of an episode: (T, A) and (T, J) in physical units → (T, K) float32.

    After the last event, and for arms without grippers, it is where the episode ends.

    Args:
        from_grasp: a hand that opens before it has held anything releases nothing, so its first grasp is its first
            event, from the first step on. Where an instruction decides what is grasped, it is then needed while
            nothing in the observation has shown it yet.
    """
    robot, targets = spec.robot, joint_targets(action, qpos, spec)
    lag, settles = robot.steps(LAG), robot.steps(SETTLES)
    found = np.repeat(targets[-1:], len(targets), axis=0).astype(np.float32)
    for arm in robot.arms:
        if arm.gripper is None:
            continue
        command, position = gripper_command(action, qpos, spec, arm), qpos[:, arm.gripper]
        found[:, arm.gripper] = command[-1]
        span = float(np.ptp(command))
        if span < SMALLEST_SPAN:
            continue
        events = gripper_events(command, span)
        opens_first = len(events) > 1 and command[events[0][1]] > command[events[0][0]]
        if from_grasp and len(events) > 1 and opens_first == (closing_sign(command, position, lag) > 0):
            events = events[1:]
        for start, stop in reversed(events):
            until = start + _half_way(position[start : stop + settles])
            found[: until + 1, as_slice(arm.joints)] = targets[start, as_slice(arm.joints)]
            found[: until + 1, arm.gripper] = command[stop]
    if not robot.has_kinematics:
        return found
    tools = forward_kinematics(robot, found)
    none = np.zeros(len(found), np.float32)
    openings = [none if arm.gripper is None else found[:, arm.gripper] for arm in robot.arms]
    with_openings = np.concatenate([tools, np.stack(openings, axis=-1)[..., None]], axis=-1)  # (T, arms, 4)
    return with_openings.reshape(len(found), -1).astype(np.float32)


def _half_way(opening: np.ndarray) -> int:
    """The first step at which something that goes from its first to its last value (T,) has gone half of the way."""
    gone = (opening - opening[0]) * np.sign(opening[-1] - opening[0])
    return int(np.argmax(gone >= gone[-1] / 2))


def without_failed_grasps(
    action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, failed: Sequence[FailedGrasp] | None = None
) -> np.ndarray:
    """The actions of an episode, (T, A), in which grippers stay open during failed grasps.

    Where actions do not command the joints, they are returned as they are: `intended_mask` leaves out whole steps.

    Args:
        failed: the failed grasps, if they were found already.
    """
    intended = action.copy()
    if not spec.commands_joints:
        return intended
    for grasp in find_failed_grasps(action, qpos, spec) if failed is None else failed:
        gripper, meanwhile = grasp.arm.gripper, slice(grasp.start, grasp.following + 1)
        sign = grasp.sign * _command_sign(action, qpos, spec, grasp.arm)
        command = action[:, gripper] * sign
        open_enough = min(command[grasp.start], command[grasp.following])
        intended[meanwhile, gripper] = np.maximum(command[meanwhile], open_enough) * sign
    return intended


def _command_sign(action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, arm: Arm) -> int:
    """-1 if the gripper's command goes against its opening in qpos."""
    assert arm.gripper is not None
    raw, converted = action[:, arm.gripper], gripper_command(action, qpos, spec, arm)
    return 1 if converted[raw.argmax()] >= converted[raw.argmin()] else -1


def intended_mask(
    action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, failed: Sequence[FailedGrasp] | None = None
) -> np.ndarray:
    """(T, A) bool: False in an arm's columns on its way to a failed grasp and back.

    A way begins and ends where the arm comes closest to where it was, with its gripper as it was, and is as long as it
    can be. Where actions do not command the joints, the steps are False in all columns, and only if all arms come back.
    """
    keep = np.ones(action.shape, dtype=bool)
    approach = spec.robot.steps(APPROACH)
    for grasp in find_failed_grasps(action, qpos, spec) if failed is None else failed:
        if spec.commands_joints:
            place, columns = _in_si(action, spec.robot, grasp.arm.columns), as_slice(grasp.arm.columns)
            reopened = grasp.stop
        else:
            arms = tuple(column for arm in spec.robot.arms for column in arm.joints)
            place, columns = _in_si(qpos, spec.robot, arms), slice(None)
            reopened = _reopened(qpos[:, grasp.arm.gripper] * grasp.sign, grasp)
        first = max(0, grasp.start - approach)
        there = place[first : grasp.start + 1]
        back = place[reopened : min(grasp.following, reopened + approach) + 1]
        apart = np.abs(there[:, None] - back[None]).sum(axis=-1)
        if not spec.commands_joints and apart.min() > 2 * CLOSE:
            continue
        leaves, returns = np.nonzero(apart <= apart.min() + CLOSE)
        longest = (returns - leaves).argmax()
        keep[first + leaves[longest] : reopened + returns[longest], columns] = False
    return keep


def _reopened(opening: np.ndarray, grasp: FailedGrasp) -> int:
    """The first step after a failed grasp at which the gripper, closed where `opening` (T,) is small, is as open again
    as it was, but for a quarter."""
    low, high = opening[grasp.start : grasp.stop + 1].min(), opening[grasp.start]
    again = np.flatnonzero(opening[grasp.stop : grasp.following + 1] >= high - (high - low) / 4)
    return grasp.stop + int(again[0]) if len(again) else grasp.following


def _in_si(values: np.ndarray, robot: Robot, columns: tuple[int, ...]) -> np.ndarray:
    """These columns of qpos in rad and m, as far as their units are known."""
    own, scales = values[:, as_slice(columns)], [robot.to_si(column)[0] for column in columns]
    return own if all(scale == 1 for scale in scales) else own * np.array(scales)


def active_steps(action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, keep_end: int) -> np.ndarray:
    """(T,) bool: the steps of an episode that are not idle, and the first `SETTLES` seconds of each pause.

    Absolute actions are idle where they do not change, relative ones where they are near zero; a gripper that still
    moves is not idle.

    Args:
        keep_end: steps that are kept of a pause at the end: a policy should know how to stay where it has finished.
    """
    grippers, robot = list(spec.action_grippers), spec.robot
    change = np.abs(np.diff(action, axis=0, prepend=action[:1]))  # per step
    speed = np.abs(action) if spec.action_semantics.startswith("relative") else change
    for gripper in grippers:
        speed[:, gripper] = change[:, gripper] / max(float(np.ptp(action[:, gripper])), SMALLEST_SPAN)
    arms = np.delete(speed, grippers, axis=1).max(axis=1, initial=0.0)
    half = round(SMOOTHED * robot.control_hz)
    arms = np.convolve(arms, np.ones(2 * half + 1) / (2 * half + 1))[half : half + len(arms)]
    usual = np.quantile(arms, 0.9)
    slow_gripper = GRIPPER_SLOW / robot.control_hz
    still = (arms < SLOW * usual) & (speed[:, grippers].max(axis=1, initial=0.0) < slow_gripper)
    around = np.arange(len(action))[:, None] + [-max(1, half), max(1, half)]  # (T, 2)
    for arm in robot.arms:  # a command in another unit is often a step, which the fingers take their time to follow
        if (gripper := arm.gripper) is None or has_own_unit(
            gripper_command(action, qpos, spec, arm), action, spec, arm
        ):
            continue
        moved = np.abs(np.diff(qpos[around.clip(0, len(action) - 1), gripper], axis=1)[:, 0])
        still &= moved < slow_gripper * 2 * max(1, half) * max(float(np.ptp(qpos[:, gripper])), SMALLEST_SPAN)
    keep, settles = ~still, robot.steps(SETTLES)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        keep[start : start + (keep_end if stop == len(action) else settles)] = True
    return keep
