"""Videos of rollouts: the images of `render()`, one MP4 per episode."""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import fill
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs.aloha import FPS
from envs.rollout import Step, VectorEnv

EVERY = 2  # steps per frame: 25 frames a second in real time


class VideoRecorder:
    """Records videos of the episodes of some seeds. Call it with every `Step` of a rollout; a rollout goes on without a
    video that cannot be written.

    Args:
        venv: environments with `render_mode="rgb_array"`.
        paths: seed → file, for the episodes to record.
        words: seed → caption of its video, or None.
    """

    def __init__(
        self, venv: VectorEnv, paths: Mapping[int, Path], words: Callable[[int], str | None] = lambda seed: None
    ):
        self.venv, self.paths, self.words = venv, dict(paths), words
        self._writers: dict[int, Any] = {}

    def __call__(self, step: Step) -> None:
        recorded = [(i, seed) for i, seed in enumerate(step.seeds) if seed in self.paths]
        if recorded and step.t % EVERY == 0:
            frames = self.venv.render()
            assert frames is not None, "videos need environments with render_mode='rgb_array'"
            for i, seed in recorded:
                with self._failures_reported(seed):
                    self._writer(seed).append_data(captioned(np.asarray(frames[i]), self.words(seed) or ""))
        if step.last:
            for _, seed in recorded:
                with self._failures_reported(seed):
                    if seed in self._writers:
                        self._writers.pop(seed).close()
                        if not self.paths[seed].stat().st_size:
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Removes the videos of episodes that did not end."""
        for seed, writer in self._writers.items():
            with suppress(OSError):
                writer.close()
            self.paths[seed].unlink(missing_ok=True)
        self._writers.clear()

    @contextmanager
    def _failures_reported(self, seed: int) -> Iterator[None]:
        """Reports and drops a video that cannot be written; the rollout goes on."""
        if seed not in self.paths:
            yield
            return
        try:
            yield
        except OSError as error:
            path = self.paths.pop(seed)
            if (writer := self._writers.pop(seed, None)) is not None:
                with suppress(OSError):
                    writer.close()
            with suppress(OSError):
                path.unlink(missing_ok=True)
            reason = (error.strerror or str(error).split("\n")[0]).lower()
            print(f"\n{path} cannot be written: {reason}; the rollout goes on without this video", file=sys.stderr)

    def _writer(self, seed: int) -> Any:
        if seed not in self._writers:
            self.paths[seed].parent.mkdir(parents=True, exist_ok=True)
            self._writers[seed] = imageio.get_writer(
                self.paths[seed], fps=FPS / EVERY, macro_block_size=2, ffmpeg_log_level="error"
            )
        return self._writers[seed]


def captioned(frame: np.ndarray, words: str) -> np.ndarray:
    """A frame (H, W, 3) uint8 with a caption at its lower edge."""
    if not words:
        return frame
    height, width = frame.shape[:2]
    image = Image.fromarray(frame)
    font = ImageFont.load_default(max(10, height // 22))
    letters = max(1, int(0.94 * width / font.getlength("n")))
    place, lines = (width / 2, 0.98 * height), fill(words, letters)
    ImageDraw.Draw(image).text(place, lines, "white", font, "md", align="center", stroke_width=2, stroke_fill="black")
    return np.asarray(image)
