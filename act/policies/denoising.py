"""What flow matching and diffusion have in common: a chunk is made out of noise, in several looks at it.

The network sees the noisy chunk, how noisy it is, and the memory of what is seen, and tells the chunk without noise.
Its decoder and heads are those of ACT, but that the queries begin with the noisy chunk instead of nothing.
"""

import torch
from torch import Tensor

from act.policies.answering import AnsweringPolicy, Seen
from act.policies.config import AnsweringConfig
from act.policies.seeing import two_layers
from act.policies.transformer import Float32Linear
from demos.spec import EpisodeSpec

WAVES = 32  # that tell a level of noise


class DenoisingPolicy(AnsweringPolicy):
    """See the head of this file."""

    frequencies: Tensor  # (WAVES,)

    def __init__(self, config: AnsweringConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)
        d = config.d_model
        self.chunk_proj = Float32Linear(self.chunk_dim, d)
        self.level_proj = two_layers(2 * WAVES, d, d)
        self.register_buffer("frequencies", torch.logspace(0, 3, WAVES), persistent=False)
        self._make_decoder()

    @property
    def noise_dim(self) -> int:
        return self.chunk_size * self.chunk_dim

    def _denoise(self, noisy: Tensor, level: Tensor, seen: Seen, goal: Tensor | None) -> Tensor:
        """The chunk (B, k, C) without noise, from a noisy one and its level (B,) from 0 to 1."""
        angles = level[:, None] * self.frequencies
        told = self.level_proj(torch.cat([angles.sin(), angles.cos()], dim=-1))
        begin = self.chunk_proj(noisy) + told[:, None]
        return self._decode(seen, goal, begin)

    def _noise(self, n: int, chance: Tensor | None) -> Tensor:
        """(n, k, C) that a chunk is made from; without chance none, which is the middle of all noise."""
        if chance is None:
            return self.query.new_zeros(n, self.chunk_size, self.chunk_dim)
        return chance.view(n, self.chunk_size, self.chunk_dim)
