"""The network that flow matching and diffusion share: a noisy chunk and its noise level → the chunk without noise.

Its decoder is that of ACT, but that the queries begin with the noisy chunk instead of zero.
"""

import torch
from torch import Tensor

from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import Float32Linear, two_layers

N_FREQUENCIES = 32  # of the sinusoids that encode a noise level


class Denoiser(Generator):
    """See the head of this file."""

    frequencies: Tensor  # (N_FREQUENCIES,)

    def __init__(self, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head)
        d = policy.transformer.d_model
        self.chunk_size, self.noise_dim = policy.chunk_size, policy.chunk_size * head.chunk_dim
        self.chunk_proj = Float32Linear(head.chunk_dim, d)
        self.level_proj = two_layers(2 * N_FREQUENCIES, d, d)
        self.register_buffer("frequencies", torch.logspace(0, 3, N_FREQUENCIES), persistent=False)

    def denoise(
        self, noisy: Tensor, level: Tensor, encoded: EncodedObservation, memory: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The chunk (B, k, C) without noise, of a noisy one and its level (B,) from 0 to 1."""
        angles = level[:, None] * self.frequencies
        embedding = self.level_proj(torch.cat([angles.sin(), angles.cos()], dim=-1))
        x = self.chunk_proj(noisy) + embedding[:, None]
        return self.head(self.transformer.decode(memory, x), encoded)

    def start(self, encoded: EncodedObservation, noise: Tensor | None) -> Tensor:
        """(B, k, C) that sampling starts from: the noise, or zero, its mean."""
        n = len(encoded.image_tokens)
        if noise is None:
            return self.transformer.query.new_zeros(n, self.chunk_size, self.head.chunk_dim)
        return noise.view(n, self.chunk_size, self.head.chunk_dim)
