"""A policy small enough for tests, and data to feed it."""

from dataclasses import replace

import torch

from act.policies import ACTConfig, ACTPolicy, Batch, Observation
from demos.episode import ALOHA_JOINTS, EpisodeSpec

SPEC = EpisodeSpec(ALOHA_JOINTS, {"top": (48, 64), "left": (48, 64), "right": (45, 37)}, env_state_dim=7)
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
BLIND = replace(TINY, cameras=(), use_env_state=True)


def make_batch(size: int = 3, k: int = TINY.chunk_size, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    frames = {
        name: torch.randint(0, 256, (size, *shape, 3), dtype=torch.uint8, generator=rng)
        for name, shape in SPEC.cameras.items()
    }
    qpos, env_state = torch.randn(size, 14, generator=rng), torch.randn(size, 7, generator=rng)
    is_pad = torch.arange(k) >= torch.arange(k, k - size, -1)[:, None]  # sample i lacks its last i actions
    return Batch(Observation(qpos, frames, env_state), torch.randn(size, k, 14, generator=rng), is_pad)


def make(config: ACTConfig = TINY, seed: int = 0) -> ACTPolicy:
    torch.manual_seed(seed)
    return ACTPolicy(config, SPEC)
