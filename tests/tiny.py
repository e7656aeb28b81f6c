"""Tiny episodes, and policies small enough for tests with data to feed them."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import torch

from act.policies import GENERATORS, Batch, Observation, Policy, PolicySettings
from act.policies.generators.config import CVAEConfig, RegressionConfig
from demos.robot import ALOHA
from demos.spec import EpisodeSpec
from demos.writer import EpisodeWriter

SPEC = EpisodeSpec(ALOHA, {"top": (24, 32), "wrist": (16, 24)}, env_ids=("Tiny-v0",), env_state_dim=7)
IN_SIMULATION = EpisodeSpec(ALOHA, {"top": (24, 32)}, env_ids=("BimanualTransferCube-v0",), env_state_dim=7)
"""Of episodes that are not those of the environment, but fit it."""
THREE_CAMERAS = replace(SPEC, cameras={"top": (48, 64), "left": (48, 64), "right": (45, 37)})

NO_IMAGES = {"cameras": (), "use_env_state": True}
"""Settings of a policy that looks at object poses alone: the fastest there is."""
TINY = PolicySettings(
    chunk_size=6,
    d_model=32,
    n_heads=4,
    ffn_dim=64,
    n_encoder_layers=1,
    dropout=0.0,
    backbone_weights="none",
    backbone_width=0.125,
    backbone_stride=16,
    generator=CVAEConfig(n_vae_encoder_layers=1, latent_dim=4),
)
BLIND = TINY.replace(**NO_IMAGES)
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
PLACES = FROZEN.replace(generator=RegressionConfig(), ee_position_weight=1.0)


def family(name: str, base: PolicySettings = BLIND, **settings) -> PolicySettings:
    """The settings of a generator, as small as `base`."""
    kind, _ = GENERATORS[name]
    own = {"n_vae_encoder_layers": 1, "latent_dim": 4, "flow_width": 16, "transforms": 1, "critic_width": 8, "bins": 64}
    own |= {"num_train_timesteps": 20, "num_inference_steps": 3, "coefficients": 3} | settings
    known = {field.name for field in fields(kind)}
    return base.replace(generator=kind(**{key: value for key, value in own.items() if key in known}))


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


def make(config: PolicySettings = TINY, seed: int = 0) -> Policy:
    """A policy with random weights for `THREE_CAMERAS`."""
    torch.manual_seed(seed)
    return Policy(config, THREE_CAMERAS)


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


def descend(policy: Policy, batch: Batch, steps: int, which: str = "loss") -> None:
    """Trains on one batch."""
    optimiser = torch.optim.AdamW(policy.parameter_groups(lr=3e-3))
    for _ in range(steps):
        loss = policy(batch)[which]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
