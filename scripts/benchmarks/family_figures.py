"""What one policy's chunks are like beside the demonstrated ones: ways, spread, distance, likelihood, latent space.

Chunks are compared by where both tools are at each of their steps: the distance of two chunks is the root mean square,
over steps and tools, of the distance of the tools, in cm. All is measured on demonstrations that no policy learnt from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from act.dataset import ChunkDataset
from act.interpolation import interpolate
from act.policies import Batch, Observation, Policy
from act.policies.act import ACTPolicy
from act.policies.autoencoder import AutoencoderPolicy
from act.policies.autoregressive import AutoregressivePolicy
from act.policies.regression import RegressionPolicy
from demos import kinematics
from demos.episode import Episode, find_episodes

DRAWS = 32  # of each first observation
LATER_DRAWS = 8  # of each later one
APART = 25  # steps between observations
BETWEEN = 11  # codes on the way from one to another
IMPORTANCE = 64  # draws of z for a bound of the likelihood


def figures(policy: Policy, trained_on: Path, held_out: Path) -> tuple[dict[str, Any], np.ndarray]:
    """All figures of a policy, and chunks drawn at the first observation of the first held-out episode, (n, k, J)."""
    torch.manual_seed(0)
    policy.eval()
    known = Known(trained_on, policy.chunk_size)
    data = ChunkDataset(held_out, policy.chunk_size, cameras=policy.cameras, val_fraction=0.0)
    data.cache("ram", torch.device("cpu"))
    lengths = [episode.length for episode in data.episodes]
    firsts = np.cumsum([0, *lengths[:-1]])
    later = np.concatenate(
        [
            first + np.arange(APART, length - policy.chunk_size, APART)
            for first, length in zip(firsts, lengths, strict=True)
        ]
    )
    begin, rest = data.gather(torch.from_numpy(firsts)), data.gather(torch.from_numpy(later))
    draws = DRAWS if policy.noise_dim else 1
    drawn = draw(policy, begin.observation, draws)  # (B, n, k, J)
    distance, way = known.nearest(drawn)
    shown, _ = known.nearest(begin.action[:, None].numpy())
    again = draw(policy, rest.observation, LATER_DRAWS if policy.noise_dim else 1)
    told = {
        "begin": {
            "ways": {name: float((way == name).mean()) for name in known.ways},
            "nearest_cm": float(distance.mean()),
            "nearest_shown_cm": float(shown.mean()),
            **spreads(drawn, way),
        },
        "later": {
            "nearest_cm": float(known.nearest(again)[0].mean()),
            "nearest_shown_cm": float(known.nearest(rest.action[:, None].numpy())[0].mean()),
            "spread_cm": spreads(again, np.zeros(again.shape[:2]))["within_cm"],
        },
        "likelihood": likelihood(policy, rest),
        "between": on_the_way(
            policy, begin, known, [episode.attributes.get("variant", "") for episode in data.episodes]
        ),
    }
    return told, drawn[0]


class Known:
    """All chunks of the demonstrations that a policy learnt from, and the way of each."""

    def __init__(self, folder: Path, k: int):
        episodes = [Episode(path) for path in find_episodes(folder)]
        meant = [each.action if each.expert_action is None else each.expert_action for each in episodes]
        windows = [np.lib.stride_tricks.sliding_window_view(paths_of(action), k, axis=0) for action in meant]
        chunks = np.concatenate([window.transpose(0, 2, 1).reshape(len(window), -1) for window in windows])
        self._chunks = torch.from_numpy(np.ascontiguousarray(chunks, dtype=np.float32))  # (N, k · 6) m
        each = [episode.attributes.get("variant", "") for episode in episodes]
        self._ways = np.repeat(each, [len(window) for window in windows])
        self.ways = sorted(set(each))

    def nearest(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far (cm) the nearest demonstrated chunk is from each of (B, n, k, J), and its way: (B, n) both."""
        flat = torch.from_numpy(paths_of(chunks).reshape(chunks.shape[0] * chunks.shape[1], -1).astype(np.float32))
        found = [torch.cdist(part, self._chunks).min(dim=1) for part in flat.split(256)]
        distance = torch.cat([each.values for each in found]).numpy() / np.sqrt(2 * chunks.shape[2])
        index = torch.cat([each.indices for each in found]).numpy()
        return 100 * distance.reshape(chunks.shape[:2]), self._ways[index].reshape(chunks.shape[:2])


def paths_of(actions: np.ndarray) -> np.ndarray:
    """Joints (…, J) → places of both tools (…, 6) m."""
    flat = actions.reshape(-1, actions.shape[-1])
    return kinematics.tool_positions(flat).reshape(*actions.shape[:-1], 6)


def draw(policy: Policy, observation: Observation, draws: int) -> np.ndarray:
    """(B, draws, k, J), each with random numbers of its own; the only answer where nothing is drawn."""
    found = []
    for _ in range(draws):
        chance = torch.randn(len(observation.qpos), policy.noise_dim) if policy.noise_dim else None
        with torch.inference_mode():
            found.append(policy.predict(observation, chance))
    return torch.stack(found, dim=1).numpy()


def spreads(chunks: np.ndarray, way: np.ndarray) -> dict[str, float | None]:
    """Mean distances (cm) of two chunks (B, n, k, J) drawn for one observation: in the same way (B, n), in others."""
    paths = paths_of(chunks)
    same, other = [], []
    for path, ways in zip(paths.reshape(*paths.shape[:2], -1), way, strict=True):
        apart = 100 * np.linalg.norm(path[:, None] - path, axis=-1) / np.sqrt(2 * chunks.shape[2])
        alike = ways[:, None] == ways
        same.append(apart[alike & ~np.eye(len(ways), dtype=bool)])
        other.append(apart[~alike])
    means = [float(each.mean()) if len(each) else None for each in map(np.concatenate, (same, other))]
    return {"within_cm": means[0] or 0.0, "between_cm": means[1]}


def likelihood(policy: Policy, batch: Batch) -> dict[str, Any]:
    """Nats for each number of the held-out chunks, joints in z-scores, and what kind of figure it is.

    Noise whose scale nobody learns (around a decoded chunk, and of what tokens leave out) has the scale that fits these
    very chunks best: a little in favour of those who need it. Places beside the joints are another quantity: no figure.
    """
    target = policy.normalizer.normalize("action", batch.action)
    numbers = target[0].numel()
    if getattr(policy, "tells_places", False):
        return {"kind": "none"}
    if isinstance(policy, AutoregressivePolicy):
        nats = policy.log_likelihood(batch) - policy.length * np.log(policy.config.resolution)
        if left_out := numbers - policy.length:
            squares = policy.left_out(batch).square().sum(dim=(1, 2))
            variance = squares.mean() / left_out
            nats = nats - squares / (2 * variance) - left_out / 2 * (2 * np.pi * variance).log()
        return {"kind": "exact", "nats": float(nats.mean() / numbers)}
    if isinstance(policy, RegressionPolicy | ACTPolicy) and not isinstance(policy, AutoencoderPolicy):
        with torch.no_grad():
            scale = float(policy(batch)["l1"])  # with z from the encoder: the scale of what is left
        if isinstance(policy, RegressionPolicy):
            return {"kind": "noise around one answer", "nats": float(-np.log(2 * scale) - 1)}
        bound = policy.log_likelihood_bound(batch, IMPORTANCE, scale)
        return {"kind": f"bound, {IMPORTANCE} draws", "nats": float(bound.mean() / numbers)}
    if (exact := policy.log_likelihood(batch)) is not None:
        return {"kind": "exact", "nats": float(exact.mean() / numbers)}
    return {"kind": "none"}


def on_the_way(policy: Policy, batch: Batch, known: Known, ways: Sequence[str]) -> dict[str, Any] | None:
    """How far the nearest demonstrated chunk is on the way from the code of one way to that of another, in cm.

    Codes of demonstrations where the policy encodes them (straight lines between), else of draws that went different
    ways (great circles between: points of a line between two draws of much noise are no draws).
    """
    pairs: list[tuple[int, Tensor, Tensor]] = []  # observation, the two codes
    codes = policy.latent(batch)
    if codes is not None:
        first, second = ([i for i, way in enumerate(ways) if way == name] for name in (*known.ways, "")[:2])
        pairs = [(i, codes[i], codes[j]) for i, j in zip(first, second, strict=False)]
    elif policy.noise_dim:
        chances = torch.randn(DRAWS, len(ways), policy.noise_dim)
        with torch.inference_mode():
            drawn = torch.stack([policy.predict(batch.observation, chance) for chance in chances], dim=1).numpy()
        _, way = known.nearest(drawn)
        for i in range(len(ways)):
            one, other = (np.flatnonzero(way[i] == name) for name in (*known.ways, "")[:2])
            if len(one) and len(other):
                pairs.append((i, chances[one[0], i], chances[other[0], i]))
    if not pairs or len(known.ways) < 2:
        return None
    shares = torch.linspace(0, 1, BETWEEN)
    distances = []
    for i, a, b in pairs:
        chunks = interpolate(policy, batch.observation.repeat(i, BETWEEN), a, b, shares, from_noise=codes is None)
        distances.append(known.nearest(chunks[None].numpy())[0][0])
    profile = np.mean(distances, axis=0)
    return {"pairs": len(pairs), "profile_cm": profile.tolist(), "worst_cm": float(np.max(distances, axis=1).mean())}
