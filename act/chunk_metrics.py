"""How near the chunks of a policy are to demonstrated ones, in cm.

The distance of two chunks is the root mean square, over steps and arms, of the distance of the end effectors.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from act.dataset import ChunkDataset
from act.policies import Observation, Policy
from demos.episode import Episode
from demos.kinematics import forward_kinematics
from demos.robot import Robot

FIRST_SAMPLES, LATER_SAMPLES = 32, 8  # noise samples for the first observation of an episode, and for each later one
EVERY = 25  # steps between observations
BLOCK = 256  # chunks that are compared at a time


def chunk_metrics(policy: Policy, trained_on: Sequence[Path], held_out: Sequence[Path]) -> dict[str, float]:
    """Distances in cm, by name: "first" at the first observation of a held-out episode, "later" at all others.

    Args:
        policy: in evaluation mode, on the CPU; its robot's chains are known.
        trained_on, held_out: episodes.
    """
    k, robot = policy.chunk_size, policy.spec.robot
    known = paths_of(robot, np.concatenate([chunks_of(Episode(path), k) for path in trained_on]))  # (N, P)
    data = ChunkDataset(held_out, k, cameras=policy.cameras, val_fraction=0.0)
    data.cache("ram", torch.device("cpu"))
    lengths = [episode.length for episode in data.episodes]
    firsts = np.cumsum([0, *lengths[:-1]])
    later = [first + np.arange(EVERY, length - k, EVERY) for first, length in zip(firsts, lengths, strict=True)]
    first, rest = (data.gather(torch.from_numpy(starts)) for starts in (firsts, np.concatenate(later)))
    first_paths = paths_of(robot, sample(policy, first.observation, FIRST_SAMPLES))
    later_paths = paths_of(robot, sample(policy, rest.observation, LATER_SAMPLES))
    return {
        "first_nearest_cm": float(nearest(first_paths, known).mean()),
        "first_spread_cm": spread(first_paths),
        "later_nearest_cm": float(nearest(later_paths, known).mean()),
        "later_spread_cm": spread(later_paths),
        "held_out_nearest_cm": float(nearest(paths_of(robot, rest.action[:, None].numpy()), known).mean()),
    }


def chunks_of(episode: Episode, k: int) -> np.ndarray:
    """All whole chunks of an episode, (N, k, J)."""
    actions = episode.action if episode.expert_action is None else episode.expert_action
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(actions, k, axis=0), -1, 1)


def sample(policy: Policy, observation: Observation, samples: int) -> np.ndarray:
    """Chunks (B, n, k, J), each from noise of its own; n is 1 for a deterministic policy."""
    noise: list[Tensor | None] = [None]
    if policy.noise_dim:
        noise = list(torch.randn(samples, len(observation.qpos), policy.noise_dim))
    with torch.inference_mode():
        return torch.stack([policy.predict(observation, each) for each in noise], dim=1).numpy()


def paths_of(robot: Robot, chunks: np.ndarray) -> np.ndarray:
    """Joints (…, k, J) → (…, P): the distance of two of these is that of the chunks, in cm."""
    places = forward_kinematics(robot, chunks)  # (…, k, arms, 3) m
    path = places.reshape(*chunks.shape[:-2], -1).astype(np.float32)
    return 100 * path / np.sqrt(np.prod(places.shape[-3:-1]))


def nearest(paths: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How far (cm) the nearest of the known paths (N, P) is from each of (B, n, P): (B, n)."""
    blocks = torch.from_numpy(paths).flatten(0, 1).split(BLOCK)
    found = [torch.cdist(block, torch.from_numpy(known)).amin(dim=1) for block in blocks]
    return torch.cat(found).reshape(paths.shape[:2]).numpy()


def spread(paths: np.ndarray) -> float:
    """Mean distance (cm) of two of the paths (B, n, P) for one observation; 0 where there is one."""
    n = paths.shape[1]
    distances = np.linalg.norm(paths[:, :, None] - paths[:, None], axis=-1)  # (B, n, n)
    return float(distances.sum(axis=(1, 2)).mean() / max(1, n * (n - 1)))
