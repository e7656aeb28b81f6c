"""Measure how near the chunks of a policy are to demonstrated ones.

    python scripts/experiments/chunk_metrics.py --checkpoint RUN --data data/cube --held-out data/other --json a.json

The distance of two chunks is the root mean square, over steps and arms, of the distance of the end effectors, in cm.
"""

import scripts.early  # noqa: F401

# isort: split
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from act.errors import ConfigError
from act.run_folder import find_checkpoint, write_atomically
from demos.episode import Episode, find_all_episodes
from demos.kinematics import forward_kinematics
from demos.robot import Robot
from scripts.common import run

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.policies import Observation, Policy

FIRST_SAMPLES, LATER_SAMPLES = 32, 8  # noise samples for the first observation of an episode, and for each later one
EVERY = 25  # steps between observations
BLOCK = 256  # chunks that are compared at a time


@dataclass(frozen=True)
class Args:
    """Measure how near the chunks of a policy are to demonstrated ones."""

    checkpoint: Path
    """Run folder or checkpoint."""
    data: tuple[Path, ...]
    """Folders of the demonstrations that the policy was trained on."""
    held_out: tuple[Path, ...]
    """Folders of others, from whose observations it predicts."""
    json: Path
    """The file to write."""


def main(args: Args) -> None:
    import torch

    from act.checkpoint import load_policy

    policy = load_policy(find_checkpoint(args.checkpoint), "cpu").eval()
    if not policy.spec.has_ee_positions:
        raise ConfigError(f"{args.checkpoint}: its actions do not give the positions of end effectors")
    torch.manual_seed(0)
    numbers = measure(policy, find_all_episodes(args.data)[0], find_all_episodes(args.held_out)[0])
    write_atomically(args.json, json.dumps(numbers, indent=2).encode())
    print(", ".join(f"{name} {value:.2f}" for name, value in numbers.items()))


def measure(policy: "Policy", trained_on: list[Path], held_out: list[Path]) -> dict[str, float]:
    """Name → cm; "first" at the first observation of an episode, "later" at all others."""
    import torch

    from act.dataset import ChunkDataset

    k = policy.chunk_size
    known = np.concatenate([chunks_of(Episode(path), k) for path in trained_on])  # (N, k, J)
    known = paths_of(policy.spec.robot, known)
    data = ChunkDataset(held_out, k, cameras=policy.cameras, val_fraction=0.0)
    data.cache("ram", torch.device("cpu"))
    lengths = [episode.length for episode in data.episodes]
    firsts = np.cumsum([0, *lengths[:-1]])
    later = [first + np.arange(EVERY, length - k, EVERY) for first, length in zip(firsts, lengths, strict=True)]
    first, rest = (data.gather(torch.from_numpy(starts)) for starts in (firsts, np.concatenate(later)))
    drawn, again = sample(policy, first.observation, FIRST_SAMPLES), sample(policy, rest.observation, LATER_SAMPLES)
    first_paths, later_paths, shown = (
        paths_of(policy.spec.robot, chunks) for chunks in (drawn, again, rest.action[:, None].numpy())
    )
    return {
        "first_nearest_cm": float(nearest(first_paths, known).mean()),
        "first_spread_cm": spread(first_paths),
        "later_nearest_cm": float(nearest(later_paths, known).mean()),
        "later_spread_cm": spread(later_paths),
        "held_out_nearest_cm": float(nearest(shown, known).mean()),
    }


def chunks_of(episode: Episode, k: int) -> np.ndarray:
    """All whole chunks of an episode, (N, k, J)."""
    actions = episode.action if episode.expert_action is None else episode.expert_action
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(actions, k, axis=0), -1, 1)


def sample(policy: "Policy", observation: "Observation", samples: int) -> np.ndarray:
    """Chunks (B, n, k, J), each from noise of its own; n is 1 for a deterministic policy."""
    import torch

    with torch.inference_mode():
        if not policy.noise_dim:
            return policy.predict(observation)[:, None].numpy()
        noise = torch.randn(samples, len(observation.qpos), policy.noise_dim)
        return torch.stack([policy.predict(observation, each) for each in noise], dim=1).numpy()


def paths_of(robot: Robot, chunks: np.ndarray) -> np.ndarray:
    """Joints (…, k, J) → (…, 3 · arms · k): the distance of two of these is that of the chunks, in cm."""
    places = forward_kinematics(robot, chunks)  # (…, k, arms, 3) m
    path = places.reshape(*chunks.shape[:-2], -1).astype(np.float32)
    return 100 * path / np.sqrt(np.prod(places.shape[-3:-1]))


def nearest(paths: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How far (cm) the nearest of the known paths (N, P) is from each of (B, n, P): (B, n)."""
    import torch

    blocks = torch.from_numpy(paths).flatten(0, 1).split(BLOCK)
    found = [torch.cdist(block, torch.from_numpy(known)).amin(dim=1) for block in blocks]
    return torch.cat(found).reshape(paths.shape[:2]).numpy()


def spread(paths: np.ndarray) -> float:
    """Mean distance (cm) of two of the paths (B, n, P) for one observation; 0 where there is one."""
    n = paths.shape[1]
    distances = np.linalg.norm(paths[:, :, None] - paths[:, None], axis=-1)  # (B, n, n)
    return float(distances.sum(axis=(1, 2)).mean() / max(1, n * (n - 1)))


if __name__ == "__main__":
    run(main, Args)
