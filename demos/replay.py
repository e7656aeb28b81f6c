"""Replay: repeats the actions of a file in a new environment with the same seed, and compares the states."""

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
    """How far the states of a replay are from those of its file, and its success."""

    qpos_difference: float  # largest absolute difference, rad and gripper openings
    success: bool
    success_published: bool


def replay(episode: Episode, video: Path | None = None) -> ReplayResult:
    """Repeats an episode.

    Args:
        episode: recorded in simulation by this toolkit.
        video: file for a video of it.

    Raises:
        EpisodeError: the file has no environment or seed.
    """
    if not episode.spec.env_id or episode.seed is None:
        raise EpisodeError(f"{episode.path}: has no env_id and seed, so there is nothing to replay it in")
    venv = make_vector_env(episode.spec.env_id, horizon=episode.length, render_mode="rgb_array" if video else None)
    recorder = VideoRecorder(venv, {episode.seed: video}) if video else None
    difference = 0.0
    step: Step | None = None
    try:
        for step in rollout(venv, Playback(episode.action), [episode.seed]):
            difference = max(difference, float(np.abs(step.observation["qpos"][0] - episode.qpos[step.t]).max()))
            if recorder is not None:
                recorder(step)
    finally:
        venv.close()
    assert step is not None
    return ReplayResult(difference, bool(step.info["is_success"][0]), bool(step.info["is_success_published"][0]))
