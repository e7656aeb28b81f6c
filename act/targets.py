"""The training targets of one episode: its commands, its keyframes, and the steps that are learnt.

    commands as recorded, or as the expert intended them where the file has both
      → without failed grasps    (drop_failed_grasps)
      → without idle steps       (drop_idle_steps)

`targets_of` alone calls the analysis of demonstrations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from act.train_config import LearnFrom
from demos.episode import Episode
from demos.grasps import FailedGrasp, find_failed_grasps
from demos.hindsight import active_steps, intended_mask, keyframes, without_failed_grasps
from demos.spec import EpisodeSpec

MIN_STD = 0.01
"""A joint that never moves in the demonstrations would otherwise turn noise into huge inputs; ACT clips here too."""


@dataclass(frozen=True)
class Targets:
    """What is learnt from one episode of T steps.

    Attributes:
        action: (T, A) commands in physical units, without failed grasps if these are dropped.
        keyframe: (T, K) where each arm goes next.
        intended: (T, A) bool, False where an arm is on its way to a failed grasp or back; None where all are True, or
            where actions do not command the joints: then these steps are left out of `kept`.
        kept: (N,) the steps that are learnt, in order.
        failed: the failed grasps that were dropped.
    """

    action: np.ndarray
    keyframe: np.ndarray
    intended: np.ndarray | None
    kept: np.ndarray
    failed: Sequence[FailedGrasp]


def targets_of(
    episode: Episode,
    keep_end: int,
    *,
    drop_idle_steps: bool,
    drop_failed_grasps: bool,
    from_grasp: bool = False,
    spec: EpisodeSpec | None = None,
) -> Targets:
    """The training targets of an episode.

    Args:
        keep_end: how many steps of an idle stretch at the end are kept.
        drop_idle_steps: remove steps in which neither an arm nor a gripper moves.
        drop_failed_grasps: remove failed grasp attempts.
        from_grasp: the first keyframe is a grasp, see `demos.hindsight.keyframes`.
        spec: robot and action semantics as the dataset has them; default: as the episode has them.
    """
    # Perturbations of a recording are there to be corrected, not to be imitated.
    action = episode.action if episode.expert_action is None else episode.expert_action
    qpos, spec, intended, failed = episode.qpos, spec or episode.spec, None, list[FailedGrasp]()
    if drop_failed_grasps:
        failed = find_failed_grasps(action, qpos, spec, simulated=episode.sim)
        intended = intended_mask(action, qpos, spec, failed)
        action = without_failed_grasps(action, qpos, spec, failed)
    keep = np.ones(len(action), bool) if not drop_idle_steps else active_steps(action, qpos, spec, keep_end)
    if intended is not None and not spec.commands_joints:
        keep, intended = keep & intended.all(axis=1), None
    return Targets(action, keyframes(action, qpos, spec, from_grasp), intended, keep.nonzero()[0], failed)


def starts_of(episode: Episode, learn_from: LearnFrom) -> np.ndarray:
    """(T,) bool, the steps of an episode that are starts."""
    if learn_from == "all" or episode.human is None:
        return np.full(episode.length, learn_from != "human")
    return episode.human


def describe_changes(episodes: Sequence[Episode], targets: Sequence[Targets], learn_from: LearnFrom) -> str:
    """One line: what is learnt otherwise than the files have it."""
    changes = []
    if failed := sum(len(each.failed) for each in targets):
        where = sum(bool(each.failed) for each in targets)
        changes.append(f"{failed} failed grasps removed (in {where} of {len(episodes)} episodes)")
    steps = sum(episode.length for episode in episodes)
    if idle := steps - sum(len(each.kept) for each in targets):
        changes.append(f"{idle} of {steps} steps left out as idle")
    pairs = zip(episodes, targets, strict=True)
    if unused := sum(int((~starts_of(episode, learn_from)[each.kept]).sum()) for episode, each in pairs):
        changes.append(f"{unused} steps left out by --learn-from {learn_from}")
    intended = sum(episode.expert_action is not None for episode in episodes)
    if intended:
        changes.append(f"intended commands in {intended} of {len(episodes)} episodes")
    still = np.concatenate([each.action for each in targets]).std(axis=0) < MIN_STD
    names = [name for name, never in zip(episodes[0].spec.action_names, still, strict=True) if never]
    if names:
        changes.append(f"constant, as they hardly move: {', '.join(names)}")
    return "; ".join(changes) or "all steps and commands as recorded"
