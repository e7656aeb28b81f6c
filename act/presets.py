"""Settings that go together, by name; every one of them can be overridden by a flag of scripts/train.py."""

from dataclasses import replace
from typing import Any

from act.errors import ConfigError
from act.policies import GENERATORS, PolicySettings
from act.policies.generators.config import CVAEConfig, GeneratorConfig, RegressionConfig
from act.train_config import TrainConfig

PRESETS: dict[str, tuple[PolicySettings, TrainConfig]] = {
    # Zhao et al. 2023, table III and its public code, for 100,000 steps; the decoder has one layer (see cvae.py).
    "paper": (PolicySettings(), TrainConfig()),
    # Two CPU cores and small images, 120 × 160 say; the values were chosen by measurement.
    "cpu": (
        PolicySettings(
            chunk_size=50,
            d_model=128,
            n_heads=4,
            ffn_dim=512,
            n_encoder_layers=2,
            n_decoder_layers=1,
            dropout=0.0,
            backbone="tf_efficientnet_lite0",
            backbone_frozen=True,
            backbone_stride=32,
            map_tokens=False,
            keypoints=32,
            keypoint_stride=8,
            frame_shift=8,
            keyframe_weight=3.0,
            ee_position_weight=1.0,
            backbone_lr=1e-2,
            generator=RegressionConfig(),
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

GENERATOR_OVERRIDES: dict[str, dict[str, GeneratorConfig]] = {"cpu": {"act": CVAEConfig(n_vae_encoder_layers=1)}}
"""Preset → policy → settings of its generator that are not its defaults."""

LANGUAGE_OVERRIDES: dict[str, dict[str, Any]] = {
    "paper": {"beginning_fraction": 0.3},
    "cpu": {"beginning_fraction": 0.3, "batch_size": 64, "lr": 1e-3},
}
"""Preset → training settings of a policy with instructions. An instruction decides at the beginning of an episode (see
`act.sampling`), and its noise makes gradients noisy, so that batches of 16 predict keyframes less exactly."""


def settings(preset: str, policy: str | None = None, *, language: bool = False) -> tuple[PolicySettings, TrainConfig]:
    """The settings of a preset.

    Args:
        policy: a name of `GENERATORS`; None: the preset's own.
        language: instructions are an input.

    Raises:
        ConfigError: unknown preset or policy.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known presets: {', '.join(PRESETS)}")
    config, training = PRESETS[preset]
    if policy is not None and policy != config.policy:
        if policy not in GENERATORS:
            raise ConfigError(f"unknown policy {policy!r}; known policies: {', '.join(GENERATORS)}")
        overrides = GENERATOR_OVERRIDES.get(preset, {})
        config = replace(config, generator=overrides.get(policy) or GENERATORS[policy][0]())
    return config, replace(training, **LANGUAGE_OVERRIDES[preset]) if language else training


CHUNK_HZ = 50.0
"""The rate of control for which the presets give the chunk size: 1 s of the preset cpu, 2 s of paper."""


def at_rate(policy: PolicySettings, control_hz: float) -> PolicySettings:
    """The settings of a preset for a robot with another rate of control: a chunk lasts as many seconds."""
    return replace(policy, chunk_size=max(1, round(policy.chunk_size * control_hz / CHUNK_HZ)))
