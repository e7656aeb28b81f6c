"""Policies by name. A new one is a file with one config and one module, and one line here."""

from typing import Any

from act.policies.act import ACTConfig, ACTPolicy
from act.policies.base import Batch, Observation, Policy
from demos.spec import EpisodeSpec

__all__ = ["POLICIES", "ACTConfig", "ACTPolicy", "Batch", "Observation", "Policy", "make_policy", "policy_name"]

POLICIES: dict[str, tuple[type, type[Policy]]] = {
    "act": (ACTConfig, ACTPolicy),
}
"""name → (config dataclass, policy module built from (config, spec, pretrained))"""


def policy_name(config: object) -> str:
    """The name under which the policy of this config is registered."""
    return next(name for name, (config_type, _) in POLICIES.items() if type(config) is config_type)


def make_policy(config: Any, spec: EpisodeSpec, *, pretrained: bool = True) -> Policy:
    """Builds the policy that belongs to `config` for episodes of `spec`.

    Args:
        config: one of the config dataclasses in `POLICIES`.
        spec: the episodes that it is to learn from.
        pretrained: False when a checkpoint fills in all weights afterwards, so that nothing is downloaded.

    Raises:
        ConfigError: the config does not fit the spec, or pretrained weights cannot be had.
    """
    _, policy_type = POLICIES[policy_name(config)]
    return policy_type(config, spec, pretrained=pretrained)
