"""Policies by name. A new one is a config in `config`, a module in a file of its own, and one line here."""

import importlib
from typing import TYPE_CHECKING, Any

from act.policies.config import (
    ACTConfig,
    AutoencoderConfig,
    AutoregressiveConfig,
    DiffusionConfig,
    FlowConfig,
    FlowMatchingConfig,
    GANConfig,
    RegressionConfig,
)
from demos.spec import EpisodeSpec

if TYPE_CHECKING:
    from act.policies.act import ACTPolicy
    from act.policies.base import Batch, Observation, Policy

__all__ = [
    "POLICIES",
    "ACTConfig",
    "ACTPolicy",
    "Batch",
    "Observation",
    "Policy",
    "make_policy",
    "policy_class",
    "policy_name",
]

POLICIES: dict[str, tuple[type, str]] = {
    "act": (ACTConfig, "ACTPolicy"),
    "regression": (RegressionConfig, "RegressionPolicy"),
    "autoencoder": (AutoencoderConfig, "AutoencoderPolicy"),
    "gan": (GANConfig, "GANPolicy"),
    "autoregressive": (AutoregressiveConfig, "AutoregressivePolicy"),
    "flow": (FlowConfig, "FlowPolicy"),
    "flow-matching": (FlowMatchingConfig, "FlowMatchingPolicy"),
    "diffusion": (DiffusionConfig, "DiffusionPolicy"),
}
"""name, which is also the module's → (config dataclass, policy class built from (config, spec, pretrained))"""

_LOADED_WHEN_ASKED_FOR = {"ACTPolicy": "act", "Batch": "base", "Observation": "base", "Policy": "base"}
"""Name → module of this package. With torch and timm they take seconds, which nobody waits for to read `--help`."""


def __getattr__(name: str) -> Any:
    if name not in _LOADED_WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LOADED_WHEN_ASKED_FOR[name]}"), name)


def policy_name(config: object) -> str:
    """The name under which the policy of this config is registered."""
    return next(name for name, (config_type, _) in POLICIES.items() if type(config) is config_type)


def make_policy(config: Any, spec: EpisodeSpec, *, pretrained: bool = True) -> "Policy":
    """Builds the policy that belongs to `config` for episodes of `spec`.

    Args:
        config: one of the config dataclasses in `POLICIES`.
        spec: the episodes that it is to learn from.
        pretrained: False when a checkpoint fills in all weights afterwards, so that nothing is downloaded.

    Raises:
        ConfigError: the config does not fit the spec, or pretrained weights cannot be had.
    """
    return policy_class(policy_name(config))(config, spec, pretrained=pretrained)


def policy_class(name: str) -> "type[Policy]":
    """The class of a policy in `POLICIES`."""
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return getattr(module, POLICIES[name][1])
