"""Tiny episodes and a tiny policy for the tests of learning."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from act.policies import ACTConfig
from demos.episode import ALOHA_JOINTS, EpisodeSpec, EpisodeWriter

SPEC = EpisodeSpec(ALOHA_JOINTS, {"top": (24, 32), "wrist": (16, 24)}, env_id="Tiny-v0", env_state_dim=7)
CONFIG = ACTConfig(
    chunk_size=6,
    d_model=16,
    n_heads=2,
    ffn_dim=32,
    n_style_layers=1,
    n_encoder_layers=1,
    latent_dim=4,
    backbone_weights="none",
    backbone_width=0.125,
)
BLIND = {"cameras": (), "use_env_state": True}
"""Settings of a policy that needs no pictures: the fastest there is."""


def write_episodes(
    folder: Path, lengths: Sequence[int] = (20, 25, 30), seeds: Sequence[int] | None = None, spec: EpisodeSpec = SPEC
) -> Path:
    """Episodes of random pictures and smooth motion; their seeds are their numbers unless given."""
    for i, length in enumerate(lengths):
        rng = np.random.default_rng(i)
        phase = rng.uniform(0, 6, 14)
        with EpisodeWriter(folder / f"episode_{i}.hdf5", spec, seed=seeds[i] if seeds else i, expert="test") as writer:
            for t in range(length):
                qpos, action = np.sin(phase + t / 10), np.sin(phase + (t + 1) / 10)
                observation = {"qpos": qpos, "qvel": qpos, "env_state": qpos[:7]}
                for name, size in spec.cameras.items():
                    observation[f"images/{name}"] = rng.integers(0, 256, (*size, 3), np.uint8)
                writer.append(observation, action, reward=0.0)
            writer.close(success=True, success_published=True)
    return folder


def as_real_robot(path: Path) -> None:
    """Turns a file into one of a real robot."""
    with h5py.File(path, "a") as file:
        file.attrs["sim"] = False
