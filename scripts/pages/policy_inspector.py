"""What a policy predicts for an episode: its chunk at any step, its attention and keypoints, its latents."""

from collections.abc import Iterable
from typing import Literal

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from act.interpolation import interpolate
from act.policies import Batch, Observation, Policy
from demos.episode import Episode
from scripts.latent_plot import embed_instruction
from scripts.pages.scene_page import PICTURE_WIDTH

Overlay = Literal["none", "attention", "keypoints"]
DEMONSTRATED, PREDICTED, INTERPOLATED = "#268b5c", "#e06a1a", "#111111"
SAMPLES = 32  # maximal number of samples
LATENT_STARTS = 8  # chunks of an episode whose latents are averaged
DOT = 3  # pixels around a keypoint


def rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


def sample_colour(i: int) -> str:
    """The colour of the i-th sample."""
    return to_hex(matplotlib.colormaps["hsv"](i * 0.618 % 1))


class PolicyInspector:
    """Runs a policy on recorded episodes.

    Args:
        policy: in evaluation mode, on the CPU.
        needs_instruction: refuse episodes without an instruction if the policy takes one; otherwise it gets none.
    """

    def __init__(self, policy: Policy, needs_instruction: bool = True):
        self.policy, self.needs_instruction = policy, needs_instruction
        self.noise = torch.randn(SAMPLES, policy.noise_dim, generator=torch.Generator().manual_seed(0))
        """(SAMPLES, noise_dim): constant, so that samples change with the observation only."""

    def predict(self, episode: Episode, t: int, images: dict[str, np.ndarray]) -> np.ndarray:
        """The chunk that it would execute at step t, (k, J); `images` are those of step t."""
        with torch.inference_mode():
            return self.policy.predict(self._observation(episode, t, images))[0].numpy()

    def sample(self, episode: Episode, t: int, images: dict[str, np.ndarray], n: int) -> np.ndarray:
        """The first n samples at step t, (n, k, J)."""
        observation = self._observation(episode, t, images).repeat(0, n)
        with torch.inference_mode():
            return self.policy.predict(observation, self.noise[:n]).numpy()

    def interpolate(
        self, episode: Episode, t: int, images: dict[str, np.ndarray], ends: tuple[int, int] | Episode, share: float
    ) -> np.ndarray:
        """The chunk (k, J) at step t between two samples, or between the codes of the chunks that this and another
        episode demonstrate at step t; 0 is the first one, 1 the second."""
        sampled = not isinstance(ends, Episode)
        a, b = (self.noise[i] for i in ends) if isinstance(ends, tuple) else (self._code(e, t) for e in (episode, ends))
        observation = self._observation(episode, t, images)
        return interpolate(self.policy, observation, a, b, torch.tensor([share]), sampled)[0].numpy()

    def _code(self, episode: Episode, t: int) -> torch.Tensor:
        """The code (D,) of the chunk that is demonstrated from step t on."""
        codes = self.policy.latent(self._chunks(episode, np.array([min(t, episode.length - 1)])))
        assert codes is not None
        return codes[0]

    def overlay(self, episode: Episode, t: int, images: dict[str, np.ndarray], what: Overlay) -> dict[str, np.ndarray]:
        """The images, (H, W, 3) uint8 each, enlarged, with the attention or the keypoints of the policy."""
        if what == "none":
            return images
        with torch.inference_mode():
            observation = self._observation(episode, t, images)
            maps = self.policy.attention(observation) if what == "attention" else {}
            points = self.policy.keypoints(observation) if what == "keypoints" else {}
        pictures = {name: _enlarged(picture) for name, picture in images.items()}
        pictures |= {name: _heated(pictures[name], heat[0].numpy()) for name, heat in maps.items()}
        return pictures | {name: _dotted(pictures[name], places[0].numpy()) for name, places in points.items()}

    def latents(self, episodes: Iterable[Episode]) -> np.ndarray | None:
        """The mean latent of each episode along their two principal axes, (n, 2); None without a latent."""
        means = []
        for episode in episodes:
            starts = np.linspace(0, max(0, episode.length - self.policy.chunk_size), LATENT_STARTS).astype(int)
            latent = self.policy.latent(self._chunks(episode, starts))
            if latent is None:
                return None
            means.append(latent.mean(dim=0).numpy())
        centred = np.stack(means) - np.mean(means, axis=0)
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        directions = np.vstack([directions, np.zeros((2, centred.shape[1]))])[:2]  # one episode has none
        return centred @ directions.T

    def _instruction(self, episode: Episode, n: int) -> torch.Tensor | None:
        """The episode's instruction as the policy takes it, (n, text_dim)."""
        if self.policy.instruction_encoder is None or self.needs_instruction or episode.instructions:
            return embed_instruction(self.policy, episode, n)
        return self.policy.instruction_encoder([None]).expand(n, -1)

    def _observation(self, episode: Episode, t: int, images: dict[str, np.ndarray]) -> Observation:
        poses = episode.env_state
        return Observation(
            torch.from_numpy(episode.qpos[t : t + 1]),
            {name: torch.from_numpy(images[name])[None] for name in self.policy.cameras},
            torch.from_numpy(poses[t : t + 1]) if self.policy.uses_env_state and poses is not None else None,
            instruction=self._instruction(episode, 1),
        )

    def _chunks(self, episode: Episode, starts: np.ndarray) -> Batch:
        """Chunks of demonstrated actions from (B,) steps on."""
        last = episode.length - 1
        steps = starts[:, None] + np.arange(self.policy.chunk_size)  # (B, k)
        targets = episode.action if episode.expert_action is None else episode.expert_action
        return Batch(
            Observation(torch.from_numpy(episode.qpos[starts]), instruction=self._instruction(episode, len(starts))),
            torch.from_numpy(targets[np.minimum(steps, last)]),
            torch.from_numpy(steps > last),
        )


def latent_plot(places: np.ndarray, chosen: int) -> np.ndarray:
    """An image of all episodes' latents (n, 2), (H, W, 3) uint8; the chosen one is highlighted."""
    figure = Figure(figsize=(4, 3), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    axes.scatter(*places.T, s=16, color="#2b6cb0", alpha=0.6)
    axes.scatter(*places[chosen], s=60, color=PREDICTED)
    axes.set_aspect("equal", "datalim")
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=7)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _enlarged(picture: np.ndarray) -> np.ndarray:
    times = -(-2 * PICTURE_WIDTH // picture.shape[1])
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    fine = Image.fromarray(heat / heat.max()).resize((width, height), Image.Resampling.BICUBIC)
    colours = 255 * matplotlib.colormaps["inferno"](np.asarray(fine).clip(0, 1))[..., :3]
    return (0.45 * picture + 0.55 * colours).astype(np.uint8)


def _dotted(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Dots at (K, 2) positions x, y from -1 to 1."""
    height, width = picture.shape[:2]
    for x, y in ((places + 1) / 2 * (width - 1, height - 1)).round().astype(int):
        picture[max(0, y - DOT) : y + DOT + 1, max(0, x - DOT) : x + DOT + 1] = rgb(PREDICTED)
    return picture
