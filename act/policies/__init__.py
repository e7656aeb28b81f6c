"""Policies: `make_policy(settings, spec)`. policy.py shows how one is put together; generators/ has the eight ways to
generate a chunk."""

import importlib
from typing import TYPE_CHECKING, Any

from act.policies.generators.config import GENERATORS
from act.policies.settings import PolicySettings
from demos.spec import EpisodeSpec

if TYPE_CHECKING:
    from act.policies.base import Batch, Observation
    from act.policies.policy import Policy

__all__ = ["GENERATORS", "Batch", "Observation", "Policy", "PolicySettings", "make_policy"]

_LAZY = {"Batch": "base", "Observation": "base", "Policy": "policy"}
"""Name → module of this package. They import torch and timm, which takes seconds that `--help` does not need."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def make_policy(settings: PolicySettings, spec: EpisodeSpec, *, pretrained: bool = True) -> "Policy":
    """Builds a policy for episodes of `spec`; see `act.policies.policy.Policy`.

    Raises:
        ConfigError: the settings do not fit the spec, or pretrained weights cannot be had.
    """
    from act.policies.policy import Policy

    return Policy(settings, spec, pretrained=pretrained)
