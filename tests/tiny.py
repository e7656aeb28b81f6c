"""Tiny episodes, and policies small enough for tests with data to feed them."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import torch

from act.policies import POLICIES, ACTConfig, ACTPolicy, Batch, Observation
from act.policies.config import AnsweringConfig
from demos.spec import ALOHA_JOINTS, EpisodeSpec
from demos.writer import EpisodeWriter

SPEC = EpisodeSpec(ALOHA_JOINTS, {"top": (24, 32), "wrist": (16, 24)}, env_ids=("Tiny-v0",), env_state_dim=7)
IN_SIMULATION = EpisodeSpec(ALOHA_JOINTS, {"top": (24, 32)}, env_ids=("BimanualTransferCube-v0",), env_state_dim=7)
"""Of episodes that are not those of the environment, but fit it."""
THREE_CAMERAS = replace(SPEC, cameras={"top": (48, 64), "left": (48, 64), "right": (45, 37)})

NO_IMAGES = {"cameras": (), "use_env_state": True}
"""Settings of a policy that looks at object poses alone: the fastest there is."""
TINY = ACTConfig(
    chunk_size=6,
    d_model=32,
    n_heads=4,
    ffn_dim=64,
    n_style_layers=1,
    n_encoder_layers=1,
    latent_dim=4,
    dropout=0.0,
    backbone_weights="none",
    backbone_width=0.125,
    backbone_stride=16,
)
BLIND = replace(TINY, **NO_IMAGES)
FROZEN = replace(
    TINY,
    cameras=("top",),
    backbone="tf_efficientnet_lite0",
    backbone_weights="imagenet",
    backbone_width=1.0,
    backbone_frozen=True,
    keypoints=4,
    keypoint_stride=4,
    keyframe_weight=1.0,
)
PLACES = replace(FROZEN, use_vae=False, place_weight=1.0)


def family(name: str, base: AnsweringConfig = BLIND, **settings) -> AnsweringConfig:
    """A family's settings, as small as `base`."""
    shared = {field.name: getattr(base, field.name) for field in fields(AnsweringConfig)}
    known = {field.name for field in fields(POLICIES[name][0])}
    own = {"n_style_layers": 1, "latent_dim": 4, "flow_width": 16, "transforms": 1, "critic_width": 8, "bins": 64}
    own |= {"noise_levels": 20, "sampling_steps": 3, "coefficients": 3} | settings
    return POLICIES[name][0](**shared, **{key: value for key, value in own.items() if key in known})


class Letters:
    """A text encoder for tests: how often each of eight letters occurs."""

    dim = 8

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:
        return np.array([[text.count(letter) for letter in "abcdefgh"] for text in sentences], np.float32)


def write_episodes(
    folder: Path,
    lengths: Sequence[int] = (20, 25, 30),
    seeds: Sequence[int] | None = None,
    spec: EpisodeSpec = SPEC,
    **attributes: object,
) -> Path:
    """Episodes of random pictures and smooth motion; their seeds are their numbers unless given."""
    for i, length in enumerate(lengths):
        rng = np.random.default_rng(i)
        phase = rng.uniform(0, 6, 14)
        with EpisodeWriter(folder / f"episode_{i}.hdf5", spec, seed=seeds[i] if seeds else i, expert="test") as writer:
            for t in range(length):
                qpos, action = np.sin(phase + t / 10), np.sin(phase + (t + 1) / 10)
                observation = {"qpos": qpos, "qvel": qpos, "env_state": np.resize(qpos, spec.env_state_dim)}
                for name, size in spec.cameras.items():
                    observation[f"images/{name}"] = rng.integers(0, 256, (*size, 3), np.uint8)
                writer.append(observation, action, reward=0.0)
            writer.close(success=True, success_published=True, attributes=attributes)
    return folder


def as_real_robot(path: Path) -> None:
    """Turns a file into one of a real robot."""
    with h5py.File(path, "a") as file:
        file.attrs["sim"] = False


def make(config: ACTConfig = TINY, seed: int = 0) -> ACTPolicy:
    """A policy with random weights for `THREE_CAMERAS`."""
    torch.manual_seed(seed)
    return ACTPolicy(config, THREE_CAMERAS)


def make_batch(size: int = 3, k: int = TINY.chunk_size, seed: int = 0) -> Batch:
    """Random samples that fit `THREE_CAMERAS`; sample i lacks its last i actions."""
    rng = torch.Generator().manual_seed(seed)
    frames = {
        name: torch.randint(0, 256, (size, *shape, 3), dtype=torch.uint8, generator=rng)
        for name, shape in THREE_CAMERAS.cameras.items()
    }
    qpos, env_state = torch.randn(size, 14, generator=rng), torch.randn(size, 7, generator=rng)
    is_pad = torch.arange(k) >= torch.arange(k, k - size, -1)[:, None]
    return Batch(Observation(qpos, frames, env_state), torch.randn(size, k, 14, generator=rng), is_pad)


def descend(policy: ACTPolicy, batch: Batch, steps: int, which: str = "loss") -> None:
    """Trains on one batch."""
    optimiser = torch.optim.AdamW(policy.parameter_groups(lr=3e-3))
    for _ in range(steps):
        loss = policy(batch)[which]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
