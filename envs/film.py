"""Films of rollouts: what `render()` shows, one MP4 per episode."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v2 as imageio

from envs.aloha import FPS
from envs.rollout import Step, VectorEnv

EVERY = 2  # steps per frame: 25 frames a second in real time


class Film:
    """Films the episodes of some seeds; hand it every `Step` of a rollout.

    Args:
        venv: environments with `render_mode="rgb_array"`.
        paths: seed → file, for the episodes to film.
    """

    def __init__(self, venv: VectorEnv, paths: Mapping[int, Path]):
        self.venv, self.paths = venv, dict(paths)
        self._writers: dict[int, Any] = {}

    def __call__(self, step: Step) -> None:
        filmed = [(i, seed) for i, seed in enumerate(step.seeds) if seed in self.paths]
        if filmed and step.t % EVERY == 0:
            frames = self.venv.render()
            assert frames is not None, "films need environments with render_mode='rgb_array'"
            for i, seed in filmed:
                self._writer(seed).append_data(frames[i])
        if step.last:
            for _, seed in filmed:
                self._writers.pop(seed).close()

    def _writer(self, seed: int) -> Any:
        if seed not in self._writers:
            self.paths[seed].parent.mkdir(parents=True, exist_ok=True)
            self._writers[seed] = imageio.get_writer(
                self.paths[seed], fps=FPS / EVERY, macro_block_size=2, ffmpeg_log_level="error"
            )
        return self._writers[seed]
