"""Replay: do a file's actions, in a fresh environment started from the file's seed, lead through the same states?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demos.episode import Episode
from demos.spec import EpisodeError
from envs.rollout import Step, make_vector_env, rollout
from envs.video import VideoRecorder


class Playback:
    """An agent that repeats recorded actions (T, 14)."""

    cameras: tuple[str, ...] = ()

    def __init__(self, actions: np.ndarray):
        self._actions = actions

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        self._t = 0

    def needs_images(self) -> bool:
        return False

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        action = self._actions[self._t]
        self._t += 1
        return np.repeat(action[None], len(observation["qpos"]), axis=0)


@dataclass(frozen=True)
class ReplayResult:
    """How far a replay went from its file, and how it ended."""

    qpos_difference: float  # largest absolute difference, rad and gripper openings
    success: bool
    success_published: bool


def replay(episode: Episode, video: Path | None = None) -> ReplayResult:
    """Re-execute an episode.

    Args:
        episode: recorded in simulation by this toolkit.
        video: where to write a film of it.

    Raises:
        EpisodeError: the file does not say which environment or seed it came from.
    """
    if not episode.spec.env_id or episode.seed is None:
        raise EpisodeError(f"{episode.path}: has no env_id and seed, so there is nothing to replay it in")
    venv = make_vector_env(episode.spec.env_id, horizon=episode.length, render_mode="rgb_array" if video else None)
    film = VideoRecorder(venv, {episode.seed: video}) if video else None
    difference = 0.0
    step: Step | None = None
    try:
        for step in rollout(venv, Playback(episode.action), [episode.seed]):
            difference = max(difference, float(np.abs(step.observation["qpos"][0] - episode.qpos[step.t]).max()))
            if film is not None:
                film(step)
    finally:
        venv.close()
    assert step is not None
    return ReplayResult(difference, bool(step.info["is_success"][0]), bool(step.info["is_success_published"][0]))
