"""On the way from one code to another: what decides between ways of going on, moved from one decision to the other."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from act.policies.base import Observation, Policy


def between(policy: Policy, observation: Observation, a: Tensor, b: Tensor, shares: Tensor, drawn: bool) -> Tensor:
    """Chunks (n, k, A) in physical units at shares (n,) of the way from a to b.

    Args:
        observation: n of them.
        a, b: codes (D,) as `Policy.latent` tells them, with a straight line between; or draws (D,) of `chance_dim`
            normal numbers, with a great circle between: points of a line between draws of much noise are too short.
        drawn: which of the two.
    """
    shares = shares[:, None]
    with torch.inference_mode():
        if drawn:
            return policy.predict(observation, great_circle(a, b, shares))
        chunks = policy.decode(observation, (1 - shares) * a + shares * b)
    assert chunks is not None, "the policy has codes and decodes none"
    return chunks


def great_circle(a: Tensor, b: Tensor, shares: Tensor) -> Tensor:
    """Points (n, D) at shares (n, 1) of the way from a to b (D,), as long as a and b are."""
    angle = torch.acos(cosine_similarity(a, b, dim=0).clamp(-0.999, 0.999))
    return (((1 - shares) * angle).sin() * a + (shares * angle).sin() * b) / angle.sin()


def repeated(observation: Observation, i: int, n: int) -> Observation:
    """One of its rows, n times."""

    def rows(value: Tensor) -> Tensor:
        return value[i : i + 1].expand(n, *value.shape[1:])

    return Observation(
        rows(observation.qpos),
        {name: rows(frame) for name, frame in observation.images.items()},
        None if observation.env_state is None else rows(observation.env_state),
        instruction=None if observation.instruction is None else rows(observation.instruction),
    )
