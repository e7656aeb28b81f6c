"""Names that settings, policies and parameters had when a run, a checkpoint or a rollout stored them: old → new.

config.json of a run folder, the settings in a checkpoint and those in results.json are read through `current_names`,
the weights of a checkpoint through `current_parameter`.
"""

from collections.abc import Mapping
from typing import Any

RENAMED_SETTINGS = {
    # scripts/train.py
    "beginnings": "beginning_fraction",
    "skip_misses": "drop_failed_grasps",
    "skip_pauses": "drop_idle_steps",
    # scripts/rollout.py
    "draws": "samples_per_seed",
    "ensemble": "temporal_ensemble_coeff",
    "every": "replan_every",
    "execute": "n_action_steps",
    "phrases": "instructions",
    "way": "variant",
    "sampling_steps": "num_inference_steps",
    # settings of policies
    "n_style_layers": "n_vae_encoder_layers",
    "nats_weight": "nll_weight",
    "noise_levels": "num_train_timesteps",
    "place_weight": "ee_position_weight",
    "resolution": "bin_width",
    "slope_weight": "r1_weight",
}
"""Old name → new name, of training, policies and rollouts."""


VAE_SETTINGS = ("n_vae_encoder_layers", "latent_dim", "kl_weight", "prior", "free_nats")
"""Settings of ACT's VAE. Without it, once `use_vae` false, the policy is today called regression."""

RENAMED_PARAMETERS = {
    # observations
    "vision": "encoder.vision",
    "keyframe_head": "encoder.keyframe_head",
    "pose_head": "encoder.pose_head",
    "text_proj": "encoder.text_proj",
    "normalizer.qpos_mean": "encoder.normalizer.qpos_mean",
    "normalizer.qpos_std": "encoder.normalizer.qpos_std",
    "normalizer.env_state_mean": "encoder.normalizer.env_state_mean",
    "normalizer.env_state_std": "encoder.normalizer.env_state_std",
    "normalizer.keyframe_mean": "encoder.normalizer.keyframe_mean",
    "normalizer.keyframe_std": "encoder.normalizer.keyframe_std",
    # actions
    "action_head": "head.joints",
    "place_head": "head.ee_positions",
    "normalizer.action_mean": "head.normalizer.action_mean",
    "normalizer.action_std": "head.normalizer.action_std",
    "normalizer.place_mean": "head.normalizer.ee_position_mean",
    "normalizer.place_std": "head.normalizer.ee_position_std",
    # the transformer of all generators
    "qpos_proj": "generator.transformer.proj.qpos",
    "env_state_proj": "generator.transformer.proj.env_state",
    "keyframe_proj": "generator.transformer.proj.keyframe",
    "vector_position": "generator.transformer.vector_position",
    "encoder.layers": "generator.transformer.encoder.layers",
    "encoder.norm": "generator.transformer.encoder.norm",
    "query": "generator.transformer.query",
    "decoder": "generator.transformer.decoder",
    # ACT and autoencoder
    "cls_token": "generator.posterior.cls_token",
    "style_qpos_proj": "generator.posterior.qpos_proj",
    "style_action_proj": "generator.posterior.action_proj",
    "style_encoder": "generator.posterior.encoder",
    "latent_head": "generator.posterior.head",
    "latent_proj": "generator.latent_proj",
    "prior_head": "generator.prior_head",
    "codes": "generator.codes",
    "count": "generator.count",
    # GAN
    "noise_proj": "generator.noise_proj",
    "critic": "generator.critic",
    # autoregressive
    "place_in_time": "generator.coefficient_embedding",
    "place_in_action": "generator.number_embedding",
    "embed": "generator.value_proj",
    "layers": "generator.layers",
    "norm": "generator.norm",
    "mixture": "generator.mixture",
    # flow
    "spread_head": "generator.spread_head",
    "flow": "generator.flow",
    # flow matching and diffusion
    "chunk_proj": "generator.chunk_proj",
    "level_proj": "generator.level_proj",
}
"""Old module or parameter → new one, of all families. No new name begins like an old one."""


def current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings under their names of today; a setting that has its new name already keeps its value."""
    found = {RENAMED_SETTINGS.get(name, name): value for name, value in stored.items()}
    found |= {name: value for name, value in stored.items() if name not in RENAMED_SETTINGS}
    if "use_vae" in found and not found.pop("use_vae"):
        found = {name: value for name, value in found.items() if name not in VAE_SETTINGS}
        found["policy"] = "regression"
    return found


def current_policy(name: str, stored: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a policy, as a checkpoint stores them, under their names of today."""
    found = current_names({**stored, "policy": name})
    return found.pop("policy"), found


def current_parameter(name: str) -> str:
    """The name of today of a parameter or buffer."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        if (old := ".".join(parts[:n])) in RENAMED_PARAMETERS:
            return ".".join([RENAMED_PARAMETERS[old], *parts[n:]])
    return name
