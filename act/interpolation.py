"""Chunks on the way from one latent or noise sample to another: what changes as one decision becomes the other."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from act.policies.base import Observation
from act.policies.policy import Policy


def interpolate(
    policy: Policy, observation: Observation, a: Tensor, b: Tensor, shares: Tensor, from_noise: bool
) -> Tensor:
    """Chunks (n, k, A) in physical units at shares (n,) of the way from a to b.

    Args:
        observation: n of them.
        a, b: latents (D,) of `Policy.latent`, joined by a straight line; or noise samples (D,) of length `noise_dim`,
            joined by a great circle, because points on a line between two samples of noise are too short.
        from_noise: whether a and b are noise samples.
    """
    shares = shares[:, None]
    with torch.inference_mode():
        if from_noise:
            return policy.predict(observation, slerp(a, b, shares))
        chunks = policy.decode(observation, (1 - shares) * a + shares * b)
    assert chunks is not None, "the policy has a latent and decodes none"
    return chunks


def slerp(a: Tensor, b: Tensor, shares: Tensor) -> Tensor:
    """Spherical interpolation: points (n, D) at shares (n, 1) of the way from a to b (D,), as long as a and b are."""
    angle = torch.acos(cosine_similarity(a, b, dim=0).clamp(-0.999, 0.999))
    return (((1 - shares) * angle).sin() * a + (shares * angle).sin() * b) / angle.sin()
