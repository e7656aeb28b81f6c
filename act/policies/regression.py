"""Regression: no latent variable. One chunk for what is seen, the median of all that were demonstrated there.

Where demonstrations go two ways, the middle of them is no way: what every other family is there to avoid.
"""

import torch
from torch import Tensor, nn

from act.policies.answering import AnsweringPolicy
from act.policies.base import Batch, Observation
from act.policies.config import RegressionConfig
from act.policies.seeing import transformer_shape
from act.policies.transformer import Decoder
from demos.spec import EpisodeSpec


class RegressionPolicy(AnsweringPolicy):
    """See the head of this file."""

    def __init__(self, config: RegressionConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)
        self.query = nn.Parameter(torch.randn(config.chunk_size, config.d_model))
        self.decoder = Decoder(config.n_decoder_layers, *transformer_shape(config))
        self._make_heads()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "l1"} and perhaps "pose", "keyframe", "place": mean errors in z-scores."""
        seen = self._look(batch.observation)
        decoded = self.decoder(self.query, seen.memory, seen.position)
        losses = self._chunk_l1(self._told(decoded, seen.qpos, self._goal_in(batch, seen)), self._target(batch), batch)
        return self._total(losses | self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe), losses["l1"])

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        seen = self._look(observation, memory)
        return self._told(self.decoder(self.query, seen.memory, seen.position), seen.qpos, seen.keyframe)
