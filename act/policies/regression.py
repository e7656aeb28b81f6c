"""Regression: no latent variable. One chunk for what is seen, the median of all that were demonstrated there.

Where demonstrations go two ways, the middle of them is no way: what every other family is there to avoid.
"""

from torch import Tensor

from act.policies.answering import AnsweringPolicy
from act.policies.base import Batch, Observation
from act.policies.config import RegressionConfig
from demos.spec import EpisodeSpec


class RegressionPolicy(AnsweringPolicy):
    """See the head of this file."""

    def __init__(self, config: RegressionConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)
        self._make_decoder()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "l1"} and perhaps "pose", "keyframe", "place": mean errors in z-scores."""
        seen = self._look(batch.observation)
        losses = self._chunk_l1(self._decode(seen, self._goal_in(batch, seen)), self._target(batch), batch)
        return self._total(losses | self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe), losses["l1"])

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        seen = self._look(observation, memory)
        return self._decode(seen, seen.keyframe)
