"""Settings that go together, by name; every one of them can be overridden by a flag of scripts/train.py."""

from dataclasses import fields, replace
from typing import Any

from act.errors import ConfigError
from act.policies import POLICIES, ACTConfig
from act.policies.config import AnsweringConfig
from act.train_config import TrainConfig

PRESETS: dict[str, tuple[ACTConfig, TrainConfig]] = {
    # Zhao et al. 2023, table III and its public code, for 100,000 steps; the decoder is one layer deep (see act.py).
    "paper": (ACTConfig(), TrainConfig()),
    # Two CPU cores and small pictures, 120 × 160 say; what was chosen by measuring stands in the README.
    "cpu": (
        ACTConfig(
            chunk_size=50,
            d_model=128,
            n_heads=4,
            ffn_dim=512,
            n_style_layers=1,
            n_encoder_layers=2,
            n_decoder_layers=1,
            dropout=0.0,
            use_vae=False,
            backbone="tf_efficientnet_lite0",
            backbone_frozen=True,
            backbone_stride=32,
            map_tokens=False,
            keypoints=32,
            keypoint_stride=8,
            frame_shift=8,
            keyframe_weight=3.0,
            place_weight=1.0,
            backbone_lr=1e-2,
        ),
        TrainConfig(
            steps=10_000,
            batch_size=16,
            lr=7e-4,
            schedule="cosine",
            warmup_steps=200,
            grad_clip=10.0,
            ema_decay=0.999,
            drop_idle_steps=True,
            drop_failed_grasps=True,
            val_fraction=0.04,
            val_every=500,
            save_every=1000,
        ),
    ),
}

TOLD: dict[str, dict[str, Any]] = {
    "paper": {"beginning_fraction": 0.3},
    "cpu": {"beginning_fraction": 0.3, "batch_size": 64, "lr": 1e-3},
}
"""What is otherwise where a policy is told in words. They decide at the beginning, as `act.sampling` says, and their
noise makes gradients noisy, so that batches of 16 leave what tells keyframes less exact."""


def settings(preset: str, policy: str = "act", *, told: bool = False) -> tuple[AnsweringConfig, TrainConfig]:
    """The settings of a preset for a family of policies: what ACT shares with it, and the family's own defaults.

    Args:
        told: whether the policy is told in words what to do.

    Raises:
        ConfigError: unknown preset or policy.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known presets: {', '.join(PRESETS)}")
    if policy not in POLICIES:
        raise ConfigError(f"unknown policy {policy!r}; known policies: {', '.join(POLICIES)}")
    config, training = PRESETS[preset]
    if policy != "act":
        shared = {field.name: getattr(config, field.name) for field in fields(AnsweringConfig)}
        config = POLICIES[policy][0](**shared)
    return config, replace(training, **TOLD[preset]) if told else training
