"""What a demonstration tells about itself in hindsight: where each arm was going, what it did not mean, when it paused.

All are read off the commands and the joints alone, so they need no simulator and no labels.

- The *keyframe* of a step is where each arm's tool is commanded to be when its gripper next begins to close or to open:
  the next grasp or release. (Keyframes at gripper events: James and Davison 2022, arXiv 2105.14829, section 4.) As an
  auxiliary target it teaches a network what to look at, which the actions of the next second hardly do. Places are
  told rather than joints: a picture shows them as they are, and they are the same from whatever side a hand comes.
  A keyframe holds until the gripper has visibly done half of what it does there. Were it over as soon as the command
  begins to change, nothing that can be seen would tell whether a hand at an object still has to grasp it, and a
  policy that takes the next keyframe for this one turns back above the object.
- A *miss* is a closing of a gripper on nothing that was undone and tried again. Nobody means to miss, and a policy that
  is shown misses closes its hands in the air. What is learnt from is what was meant: a gripper that stays open and, as
  the way to a miss leads beside the object, an arm that does not go there, or that leaves it at once.
- A *pause* is a stretch in which neither arm nor gripper moves. A policy without memory that is shown standing still
  learns to stand still, so training leaves the pauses out of its time line.
"""

from collections.abc import Sequence

import numpy as np

from demos import kinematics

TURN = 0.3  # share of its span that a gripper must travel for its turn to count
SLOW = 0.1  # share of the usual speed below which an arm stands still
CLOSE = 0.05  # rad, sum over an arm: as good as the same
SETTLES = 10  # steps of every pause that are kept: the arms lag behind their commands


def arms_of(joint_names: Sequence[str]) -> list[tuple[slice, int]]:
    """The joints of each arm, its gripper's column being the last of them; empty for robots without grippers.

    A joint whose name contains "gripper" ends an arm, as in ALOHA's layout.
    """
    grippers = [i for i, name in enumerate(joint_names) if "gripper" in name]
    starts = [0, *(i + 1 for i in grippers)]
    return [(slice(start, gripper + 1), gripper) for start, gripper in zip(starts, grippers, strict=False)]


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
    return events


def as_meant(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str]) -> np.ndarray:
    """The commands of an episode without its misses: `action` and `qpos` (T, A) in physical units → (T, A)."""
    meant = action.copy()
    for joints, start, _, following in _misses(action, qpos, joint_names):
        gripper, meanwhile = joints.stop - 1, slice(start, following + 1)
        command = action[:, gripper]
        meant[meanwhile, gripper] = np.maximum(command[meanwhile], min(command[start], command[following]))
    return meant


def meant_steps(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str]) -> np.ndarray:
    """(T, A) bool: the commands of an episode without an arm's ways to its misses and back, `action` and `qpos` (T, A).

    A way begins and ends where the arm and its gripper come closest to where they were, and is as long as it can be.
    """
    keep = np.ones(action.shape, dtype=bool)
    for joints, start, stop, following in _misses(action, qpos, joint_names):
        arm = action[:, joints]
        apart = np.abs(arm[: start + 1, None] - arm[None, stop : following + 1]).sum(axis=-1)
        leaves, returns = np.nonzero(apart <= apart.min() + CLOSE)
        longest = (returns - leaves).argmax()
        keep[leaves[longest] : stop + returns[longest], joints] = False
    return keep


def _misses(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str]) -> list[tuple[slice, int, int, int]]:
    """[(an arm, the first and the last step of its closing on nothing, the first of the closing that follows), …].

    Something in a gripper keeps it from following its command. It has closed on nothing where this gap is less than
    half of that in its last closing.
    """
    found = []
    for joints, gripper in arms_of(joint_names):
        command, opening = action[:, gripper], qpos[:, gripper]
        events = gripper_events(command, max(float(np.ptp(command)), 1e-3))
        closings = [(start, stop) for start, stop in events if command[stop] < command[start]]
        gaps = [opening[start : stop + SETTLES].min() - command[stop] for start, stop in closings]
        for (start, stop), (following, _), gap in zip(closings, closings[1:], gaps, strict=False):
            if gap < gaps[-1] / 2:
                found.append((joints, start, stop, following))
    return found


def keyframe_dim(joint_names: Sequence[str]) -> int:
    """K, the length of a keyframe."""
    return 8 if kinematics.knows(joint_names) else len(joint_names)


def keyframes(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str], from_grasp: bool = False) -> np.ndarray:
    """The keyframe of every step of an episode: `action` and `qpos` (T, A) in physical units → (T, K) float32.

    Of ALOHA's arms: for each the place of its tool at its next gripper event, in m from its base, and the gripper's
    opening after it. Of other robots, whose kinematics are not known: an arm's joints there. After the last event, and
    without grippers, where the episode ends.

    Args:
        from_grasp: a hand that opens before it has held anything releases nothing, so its first grasp is its first
            event, from the first step on. Where words decide what is grasped, they are then needed while nothing
            that can be seen has given it away yet.
    """
    found = np.repeat(action[-1:], len(action), axis=0).astype(np.float32)
    for joints, gripper in arms_of(joint_names):
        opening = action[:, gripper]
        span = float(np.ptp(opening))
        if span < 1e-3:
            continue
        events = gripper_events(opening, span)
        if from_grasp and len(events) > 1 and opening[events[0][1]] > opening[events[0][0]]:
            events = events[1:]
        for start, stop in reversed(events):
            until = start + _half_way(qpos[start : stop + SETTLES, gripper])
            found[: until + 1, joints] = action[start, joints]
            found[: until + 1, gripper] = action[stop, gripper]
    if not kinematics.knows(joint_names):
        return found
    left, right = np.split(kinematics.tool_positions(found), 2, axis=-1)
    return np.concatenate([left, found[:, 6:7], right, found[:, 13:14]], axis=-1).astype(np.float32)


def _half_way(opening: np.ndarray) -> int:
    """The first step at which something that goes from its first to its last value (T,) has gone half of the way."""
    gone = (opening - opening[0]) * np.sign(opening[-1] - opening[0])
    return int(np.argmax(gone >= gone[-1] / 2))


def moving_steps(action: np.ndarray, joint_names: Sequence[str], keep_end: int) -> np.ndarray:
    """(T,) bool: the steps of an episode (T, A) that are no pauses, and the first `SETTLES` steps of each pause.

    Of a pause at the end, `keep_end` steps are kept: a policy should know how to stay where it has finished.
    """
    grippers = [gripper for _, gripper in arms_of(joint_names)]
    speed = np.abs(np.diff(action, axis=0, prepend=action[:1]))  # per step
    for gripper in grippers:
        speed[:, gripper] /= max(float(np.ptp(action[:, gripper])), 1e-3)
    arms = np.delete(speed, grippers, axis=1).max(axis=1, initial=0.0)
    window = np.ones(5) / 5
    arms = np.convolve(arms, window, mode="same")
    usual = np.quantile(arms, 0.9)
    still = (arms < SLOW * usual) & (speed[:, grippers].max(axis=1, initial=0.0) < 0.005)
    keep = ~still
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        keep[start : start + (keep_end if stop == len(action) else SETTLES)] = True
    return keep
