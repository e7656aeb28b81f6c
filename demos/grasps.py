"""What the grippers of a demonstration did, read off commands and positions: closings, grasps, failed grasps.

An object shows as a *gap*: it keeps the gripper from following its command. Units, direction and offset of a gripper
are those of the file: 0 may be closed or open, and a follower may read less or more than it is commanded. A command in
another unit or direction than the opening is converted first. Where actions do not command the opening (relative ones,
say), the opening itself says when the gripper closed and opened, and fully closed or open stands for the command.

A *failed grasp* closed on nothing, and the same hand tried again. All of these must be true, since a failed grasp that
is left in costs little, and a grasp that is removed is never learnt:

- The gripper followed its command as it does when it is open: the gap is within the noise.
- The arm went nowhere new while the gripper was closed. A hand that carries or pushes something does.
- The next closing that did not fail is near, and something was in the gripper then.
"""

from dataclasses import dataclass

import numpy as np

from demos.kinematics import forward_kinematics
from demos.robot import Arm, Robot
from demos.spec import EpisodeSpec

TURN = 0.3  # share of its span that a gripper must travel for its turn to count
LAG = 0.2  # s within which a gripper follows its command
GAP = 0.02  # share of the span; a gap must be larger than this, and than the noise, to be an object
APPROACH = 10.0  # s before a closing, or after an opening, in which the way there, or back, is looked for
SAME_PLACE, NEARBY = 0.06, 0.12  # m; simulated people come back to within 0.053 m, and try again within 0.08 m
SAME_POSE, NEARBY_POSE = 0.1, 0.3  # in place of these for unknown kinematics: share of the span of each joint
SMALLEST_SPAN = 1e-3  # a gripper that moves less never moves
OVERSHOOT = 0.1  # share of its span by which a gripper moves before it comes to rest
OTHER_UNIT = 4.0  # times that the spans of command and opening differ where their units do


@dataclass(frozen=True)
class FailedGrasp:
    """A closing on nothing.

    Attributes:
        arm: whose.
        start, stop: first and last step of the closing.
        following: first step of the next closing of this gripper.
        sign: 1 for a gripper whose smaller values are closed, -1 for one whose larger values are.
    """

    arm: Arm
    start: int
    stop: int
    following: int
    sign: int


def joint_targets(action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec) -> np.ndarray:
    """(T, J): the joint positions that were commanded, or those reached one step later where actions are others."""
    if spec.commands_joints:
        return action[:, : len(spec.joint_names)]
    return np.concatenate([qpos[1:], qpos[-1:]])


def gripper_command(action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, arm: Arm) -> np.ndarray:
    """(T,) the command of an arm's gripper, in the unit and direction of its opening in `qpos`."""
    assert arm.gripper is not None
    position = qpos[:, arm.gripper]
    if not spec.commands_joints:
        return _command_from_opening(position)
    return _in_unit_of(position, action[:, arm.gripper], spec.robot.steps(LAG))


def has_own_unit(command: np.ndarray, action: np.ndarray, spec: EpisodeSpec, arm: Arm) -> bool:
    """Whether a gripper's command (T,) stands in the actions in the unit of its opening, rather than was derived."""
    return spec.commands_joints and np.array_equal(command, action[:, arm.gripper])


def _closed_at(closed: float, command: np.ndarray, sign: int) -> np.ndarray:
    """A gripper's command (T,), stretched so that its closed end is there."""
    shut, wide = (command.min(), command.max()) if sign > 0 else (command.max(), command.min())
    return wide + (command - wide) / (shut - wide) * (closed - wide)


def _command_from_opening(position: np.ndarray) -> np.ndarray:
    """Fully open from where a gripper (T,) begins to open, fully closed from where it begins to close."""
    low, high = position.min(), position.max()
    events = gripper_events(position, float(high - low))
    command = np.full(len(position), position[0], position.dtype)
    for i, (start, stop) in enumerate(events):
        opens = position[stop] > position[start]
        rests = np.abs(position[start : stop + 1] - position[start]) <= OVERSHOOT * (high - low)
        start += int(np.flatnonzero(rests)[-1])
        if i == 0:
            command[: start + 1] = low if opens else high
        command[start + 1 :] = high if opens else low
    return command


def _in_unit_of(position: np.ndarray, command: np.ndarray, lag: int) -> np.ndarray:
    """A gripper's command (T,), converted where its unit or direction is not that of the opening."""
    span, moved = float(np.ptp(command)), float(np.ptp(position))
    if span == 0 or moved == 0:
        return command
    low, high = command.min(), command.max()
    rests = _rests(command, lag, 3 * GAP * span)
    at_low, at_high = (position[rests & (np.abs(command - end) < span / 4)] for end in (low, high))
    if not len(at_low) or not len(at_high):
        return command
    against = float(np.median(at_high)) < float(np.median(at_low)) - TURN * moved
    if not against and 1 / OTHER_UNIT < moved / span < OTHER_UNIT:
        return command
    # Objects keep a gripper from closing, so the extremes are where nothing was in the way.
    first, last = (at_low.max(), at_high.min()) if against else (at_low.min(), at_high.max())
    return first + (command - low) / span * (last - first)


def _rests(command: np.ndarray, lag: int, most: float) -> np.ndarray:
    """(T,) bool: where a command has changed by less than `most` within the last `lag` steps."""
    recent = np.lib.stride_tricks.sliding_window_view(np.pad(command, (lag, 0), "edge"), lag + 1)  # (T, lag + 1)
    return np.ptp(recent, axis=1) < most


def gripper_events(gripper: np.ndarray, span: float) -> list[tuple[int, int]]:
    """First and last step of each closing and opening of a gripper (T,): from turn to turn, at least `TURN` of `span`
    apart; smaller ones are noise.
    """
    events: list[tuple[int, int]] = []
    low = high = 0  # steps of the extremes since the last turn
    direction = 0
    for t, value in enumerate(gripper):
        if value >= gripper[high]:
            high = t
        if value <= gripper[low]:
            low = t
        if direction <= 0 and value - gripper[low] > TURN * span:
            events.append((low, t))
            direction, high = 1, t
        elif direction >= 0 and gripper[high] - value > TURN * span:
            events.append((high, t))
            direction, low = -1, t
        if direction > 0:
            if high == t:
                events[-1] = (events[-1][0], t)
                low = t
        elif direction < 0 and low == t:
            events[-1] = (events[-1][0], t)
            high = t
    return _without_noise(gripper, span, events)


def _without_noise(gripper: np.ndarray, span: float, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same events, each from the last step at its first value: noise puts the extreme anywhere in a rest."""
    # A quarter of the steps at least are at rest. The lower quartile of a normal deviate's magnitude is 0.319.
    noise = np.quantile(np.abs(np.diff(gripper)), 0.25) / (0.319 * np.sqrt(2)) if len(gripper) > 1 else 0.0
    near = min(6 * noise, span / 10)
    starts = [
        start + int(np.flatnonzero(np.abs(gripper[start : stop + 1] - gripper[start]) <= near)[-1])
        for start, stop in events
    ]
    return list(zip(starts, [*starts[1:], *(stop for _, stop in events[-1:])], strict=True))


def closing_sign(command: np.ndarray, position: np.ndarray, lag: int) -> int:
    """1 if smaller values of a gripper, `command` and `position` (T,), are closed, -1 if larger ones are.

    Objects tell: they are in the way of closings only. Where no object was held, 1. A gripper follows its command
    within `lag` steps.
    """
    span = max(float(np.ptp(command)), SMALLEST_SPAN)
    behind = {-1: 0.0, 1: 0.0}  # direction of the motion → how far the gripper stayed behind its command
    for start, stop in gripper_events(command, span):
        direction = 1 if command[stop] > command[start] else -1
        held = _held(direction * -command, start, stop)[lag:]
        if len(held):
            gap = direction * np.median(command[held] - position[held])
            behind[direction] = max(behind[direction], float(gap))
    return -1 if behind[1] > behind[-1] + 2 * GAP * span else 1


def find_failed_grasps(
    action: np.ndarray, qpos: np.ndarray, spec: EpisodeSpec, simulated: bool = False
) -> list[FailedGrasp]:
    """The failed grasps of an episode, arm by arm, in time.

    Args:
        action, qpos: (T, A) and (T, J), in the units of the file.
        spec: of the episode.
        simulated: the grippers have the range that the robot names (`Arm.gripper_range`): commands beyond leave a gap
            without an object.
    """
    found: list[FailedGrasp] = []
    targets, lag = joint_targets(action, qpos, spec), spec.robot.steps(LAG)
    approach = spec.robot.steps(APPROACH)
    for number, arm in enumerate(spec.robot.arms):
        if arm.gripper is None:
            continue
        command = gripper_command(action, qpos, spec, arm).astype(np.float64)
        position = qpos[:, arm.gripper].astype(np.float64)
        span = float(np.ptp(command))
        if span < SMALLEST_SPAN:
            continue
        sign = closing_sign(command, position, lag)
        if not has_own_unit(command, action, spec, arm):
            # Where the gripper is closed is known of a robot with limits only: every closing may have held something.
            if (reach := arm.gripper_range or spec.robot.limit_of_qpos(arm.gripper)) is None:
                continue
            command = _closed_at(reach[0] if sign > 0 else reach[1], command, sign)
            span = float(np.ptp(command))
        oriented = sign * command / span
        events = gripper_events(oriented, 1.0)
        closings = [(start, stop) for start, stop in events if oriented[stop] < oriented[start]]
        limits = arm.gripper_range if simulated else None
        gap = sign * (position - (command if limits is None else command.clip(*limits))) / span
        if len(closings) < 2 or (usual := _gap_at_rest(oriented, gap, lag)) is None:
            continue
        offset, noise = usual
        held = [_held(oriented, start, stop) for start, stop in closings]
        settled = [steps[lag:] for steps in held]
        gaps = [float(np.median(gap[steps])) - offset if len(steps) else np.nan for steps in settled]
        least = [GAP + 4 * noise / np.sqrt(max(1, len(steps))) for steps in settled]  # 3 deviations of a median
        path, same, near = _path(targets, spec.robot, number)
        own: list[FailedGrasp] = []
        tried_again = len(closings) - 1  # the next closing that did not fail
        for i in reversed(range(len(closings) - 1)):
            if (
                gaps[i] <= least[i]  # not for nan
                and gaps[tried_again] > 2 * least[tried_again]
                and _distance(path[held[tried_again][0]], path[held[i][:1]]) <= near
                and _goes_nowhere_new(path, held[i], same, approach)
            ):
                own.append(FailedGrasp(arm, *closings[i], closings[i + 1][0], sign))
            else:
                tried_again = i
        found += reversed(own)
    return found


def _held(command: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Steps in which a gripper, closed where `command` (T,) is small, is commanded to stay closed after a closing."""
    low, high = command[stop], command[start]
    opens = np.flatnonzero(command[stop:] > (low + high) / 2)
    end = stop + int(opens[0]) if len(opens) else len(command)
    return start + np.flatnonzero(command[start:end] <= low + (high - low) / 4)


def _gap_at_rest(command: np.ndarray, gap: np.ndarray, lag: int) -> tuple[float, float] | None:
    """Median and deviation of a gap (T,) while the gripper rests open (`command` is large); None if it never does."""
    low, high = command.min(), command.max()
    rests = _rests(command, lag, 3 * GAP * (high - low))
    rests &= command > high - (high - low) / 4
    if not rests.any():
        return None
    usual = float(np.median(gap[rests]))
    return usual, 1.4826 * float(np.median(np.abs(gap[rests] - usual)))


def _path(targets: np.ndarray, robot: Robot, number: int) -> tuple[np.ndarray, float, float]:
    """Where an arm is commanded to be, (T, D), and which distances are the same place, and nearby."""
    if robot.has_kinematics:
        return forward_kinematics(robot, targets)[:, number], SAME_PLACE, NEARBY
    arm = targets[:, as_slice(robot.arms[number].joints)].astype(np.float64)
    spans = np.ptp(arm, axis=0)
    return arm / np.maximum(spans, max(0.05 * spans.max(initial=0.0), 1e-6)), SAME_POSE, NEARBY_POSE


def as_slice(columns: tuple[int, ...]) -> slice | list[int]:
    """An index of these columns: a slice, which copies nothing, if they follow each other."""
    if columns and columns == tuple(range(columns[0], columns[0] + len(columns))):
        return slice(columns[0], columns[0] + len(columns))
    return list(columns)


def _goes_nowhere_new(path: np.ndarray, closed: np.ndarray, same: float, approach: int) -> bool:
    """Whether an arm, in the steps in which its gripper is closed, stays where it was before."""
    before = path[max(0, closed[0] - approach) : closed[0] + 1]
    return all(_distance(place, before) <= same for place in path[closed])


def _distance(place: np.ndarray, path: np.ndarray) -> float:
    return float(np.sqrt(((path - place) ** 2).sum(axis=-1).min()))
