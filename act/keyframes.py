"""What a demonstration tells about itself in hindsight: where each arm was going, what it did not mean, when it paused.

All are read off the commands and the joints alone, so they need no simulator and no labels.

- The *keyframe* of a step is where each arm's tool is commanded to be when its gripper next begins to close or to open:
  the next grasp or release. (Keyframes at gripper events: James and Davison 2022, arXiv 2105.14829, section 4.) As an
  auxiliary target it teaches a network what to look at, which the actions of the next second hardly do. Places are
  told rather than joints: a picture shows them as they are, and they are the same from whatever side a hand comes.
- A *miss* is a closing of a gripper on nothing that was undone and tried again. Nobody means to miss, and a policy that
  is shown misses closes its hands in the air: keyframes pass them over, and of that arm, from there until its gripper
  is open again, no action is learnt.
- A *pause* is a stretch in which neither arm moves nor any finger, whatever a gripper is commanded. A policy without
  memory that is shown standing still learns to stand still, so training leaves the pauses out of its time line.
"""

from collections.abc import Sequence

import numpy as np

from demos import kinematics

TURN = 0.3  # share of its span that a gripper must travel for its turn to count
HELD = 0.15  # share of its span by which fingers stay behind their command where something is between them
SLOW = 0.1  # share of the usual speed below which an arm stands still
SETTLES = 10  # steps of every pause that are kept: the arms lag behind their commands


def arms_of(joint_names: Sequence[str]) -> list[tuple[slice, int]]:
    """The joints of each arm, its gripper's column being the last of them; empty for robots without grippers.

    A joint whose name contains "gripper" ends an arm, as in ALOHA's layout.
    """
    grippers = [i for i, name in enumerate(joint_names) if "gripper" in name]
    starts = [0, *(i + 1 for i in grippers)]
    return [(slice(start, gripper + 1), gripper) for start, gripper in zip(starts, grippers, strict=False)]


def gripper_events(gripper: np.ndarray, span: float) -> list[tuple[int, int]]:
    """First and last step of each closing and opening of a gripper (T,): monotone, and at least `TURN`, a share of
    `span`.
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


def misses(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str]) -> list[tuple[slice, slice]]:
    """Closings on nothing that were undone and tried again: the joints of the arm and the steps from the first of the
    closing to the last of the opening. `action` and `qpos` are those of an episode, (T, A) in physical units.

    Something in a gripper keeps it from following its command. It has closed on nothing where this gap is less than
    half of that in its last closing.
    """
    found = []
    for joints, gripper in arms_of(joint_names):
        command, opening = action[:, gripper], qpos[:, gripper]
        events = gripper_events(command, max(float(np.ptp(command)), 1e-3))
        closings = [i for i, (start, stop) in enumerate(events) if command[stop] < command[start]]
        gaps = [opening[start : stop + SETTLES].min() - command[stop] for start, stop in (events[i] for i in closings)]
        # Events alternate: after a closing that is not the last comes an opening.
        missed = [i for i, gap in zip(closings[:-1], gaps, strict=False) if gap < gaps[-1] / 2]
        found += [(joints, slice(events[i][0], events[i + 1][1] + 1)) for i in missed]
    return found


def as_meant(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The commands of an episode as they were meant, (T, A), and which of them were, (T, A) bool: none of an arm that
    misses.

    A gripper that `misses` stays open. One that closes on something grips it as firmly as it ever does as soon as
    its fingers stay behind: how far a hand has come in pressing harder shows in no picture and no joint, so a policy
    that is shown it sets out before it holds.
    """
    commands, meant = action.copy(), np.ones(action.shape, dtype=bool)
    for _, gripper in arms_of(joint_names):
        span = max(float(np.ptp(action[:, gripper])), 1e-3)
        held = qpos[:, gripper] - action[:, gripper] > HELD * span
        for start, stop in gripper_events(action[:, gripper], span):
            if action[stop, gripper] < action[start, gripper] and held[start : stop + 1].any():
                touch = start + int(held[start : stop + 1].argmax())
                commands[touch : stop + 1, gripper] = action[stop, gripper]
    for joints, steps in misses(action, qpos, joint_names):
        gripper = joints.stop - 1
        edges = action[[steps.start, steps.stop - 1], gripper]
        commands[steps, gripper] = np.maximum(commands[steps, gripper], edges.min())
        meant[steps, joints] = False
    return commands, meant


def keyframe_dim(joint_names: Sequence[str]) -> int:
    """K, the length of a keyframe."""
    return 8 if kinematics.knows(joint_names) else len(joint_names)


def keyframes(action: np.ndarray, joint_names: Sequence[str]) -> np.ndarray:
    """The keyframe of every step of an episode: `action` (T, A) in physical units → (T, K) float32.

    Of ALOHA's arms: for each the place of its tool at its next gripper event, in m from its base, and the gripper's
    opening after it. Of other robots, whose kinematics are not known: an arm's joints there. After the last event, and
    without grippers, where the episode ends.
    """
    found = np.repeat(action[-1:], len(action), axis=0).astype(np.float32)
    for joints, gripper in arms_of(joint_names):
        opening = action[:, gripper]
        span = float(np.ptp(opening))
        if span < 1e-3:
            continue
        for start, stop in reversed(gripper_events(opening, span)):
            found[: start + 1, joints] = action[start, joints]
            found[: start + 1, gripper] = action[stop, gripper]
    if not kinematics.knows(joint_names):
        return found
    left, right = np.split(kinematics.tool_positions(found), 2, axis=-1)
    return np.concatenate([left, found[:, 6:7], right, found[:, 13:14]], axis=-1).astype(np.float32)


def moving_steps(action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str], keep_end: int) -> np.ndarray:
    """(T,) bool: the steps of an episode that are no pauses, and the first `SETTLES` steps of each pause; `action` and
    `qpos` (T, A). What arms are commanded tells whether they move, and of fingers, where they are.

    Of a pause at the end, `keep_end` steps are kept: a policy should know how to stay where it has finished.
    """
    grippers = [gripper for _, gripper in arms_of(joint_names)]
    speed = np.abs(np.diff(action, axis=0, prepend=action[:1]))  # per step
    fingers = np.abs(np.diff(qpos[:, grippers], axis=0, prepend=qpos[:1, grippers]))
    fingers /= np.maximum(np.ptp(action[:, grippers], axis=0), 1e-3)
    arms = np.delete(speed, grippers, axis=1).max(axis=1, initial=0.0)
    window = np.ones(5) / 5
    arms = np.convolve(arms, window, mode="same")
    usual = np.quantile(arms, 0.9)
    still = (arms < SLOW * usual) & (fingers.max(axis=1, initial=0.0) < 0.005)
    keep = ~still
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        keep[start : start + (keep_end if stop == len(action) else SETTLES)] = True
    return keep
