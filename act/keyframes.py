"""What a demonstration tells about itself in hindsight: where each arm was going, what it did not mean, when it paused.

All are read off the commands and the joints alone, so they need no simulator and no labels.

- The *keyframe* of a step is where each arm's tool is commanded to be when its gripper next begins to close or to open:
  the next grasp or release. (Keyframes at gripper events: James and Davison 2022, arXiv 2105.14829, section 4.) As an
  auxiliary target it teaches a network what to look at, which the actions of the next second hardly do. Places are
  told rather than joints: a picture shows them as they are, and they are the same from whatever side a hand comes.
  A keyframe holds until the gripper has visibly done half of what it does there. Were it over as soon as the command
  begins to change, nothing that can be seen would tell whether a hand at an object still has to grasp it, and a
  policy that takes the next keyframe for this one turns back above the object.
- A *failed grasp* (`act.grippers`) is a closing on nothing that was undone and tried again. A policy that is shown them
  closes its hands in the air. The training targets are what was meant: a gripper that stays open and, as the way to a
  failed grasp leads beside the object, an arm that does not go there, or that leaves it at once.
- A *pause* is a stretch in which neither arm nor gripper moves. A policy without memory that is shown standing still
  learns to stand still, so training leaves the pauses out of its time line.
"""

from collections.abc import Sequence

import numpy as np

from act.grippers import APPROACH, FailedGrasp, arms_of, closing_sign, find_failed_grasps, gripper_events
from demos import kinematics

SLOW = 0.1  # share of the usual speed below which an arm stands still
CLOSE = 0.05  # rad, sum over an arm: as good as the same
SETTLES = 10  # steps of every pause that are kept: the arms lag behind their commands


def as_meant(
    action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str], failed: Sequence[FailedGrasp] | None = None
) -> np.ndarray:
    """The commands of an episode without its failed grasps: `action` and `qpos` (T, A) in physical units → (T, A).

    Args:
        failed: the failed grasps, if they were found already.
    """
    meant = action.copy()
    for grasp in find_failed_grasps(action, qpos, joint_names) if failed is None else failed:
        gripper, meanwhile = grasp.joints.stop - 1, slice(grasp.start, grasp.following + 1)
        command = action[:, gripper] * grasp.sign
        open_enough = min(command[grasp.start], command[grasp.following])
        meant[meanwhile, gripper] = np.maximum(command[meanwhile], open_enough) * grasp.sign
    return meant


def meant_steps(
    action: np.ndarray, qpos: np.ndarray, joint_names: Sequence[str], failed: Sequence[FailedGrasp] | None = None
) -> np.ndarray:
    """(T, A) bool: the commands of an episode without an arm's ways to its failed grasps and back; as `as_meant`.

    A way begins and ends where the arm and its gripper come closest to where they were, and is as long as it can be.
    """
    keep = np.ones(action.shape, dtype=bool)
    for grasp in find_failed_grasps(action, qpos, joint_names) if failed is None else failed:
        arm, first = action[:, grasp.joints], max(0, grasp.start - APPROACH)
        there = arm[first : grasp.start + 1]
        back = arm[grasp.stop : min(grasp.following, grasp.stop + APPROACH) + 1]
        apart = np.abs(there[:, None] - back[None]).sum(axis=-1)
        leaves, returns = np.nonzero(apart <= apart.min() + CLOSE)
        longest = (returns - leaves).argmax()
        keep[first + leaves[longest] : grasp.stop + returns[longest], grasp.joints] = False
    return keep


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
        opens_first = len(events) > 1 and opening[events[0][1]] > opening[events[0][0]]
        if from_grasp and len(events) > 1 and opens_first == (closing_sign(opening, qpos[:, gripper]) > 0):
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
    arms = np.convolve(arms, window)[2 : 2 + len(arms)]  # mode "same" is at least as long as the window
    usual = np.quantile(arms, 0.9)
    still = (arms < SLOW * usual) & (speed[:, grippers].max(axis=1, initial=0.0) < 0.005)
    keep = ~still
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2):
        keep[start : start + (keep_end if stop == len(action) else SETTLES)] = True
    return keep
