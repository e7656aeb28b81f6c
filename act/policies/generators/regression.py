"""Regression: ACT without its VAE. One chunk for an observation, the median of all that were demonstrated there.

Where demonstrations have several modes, their median lies between them, which is what every other generator avoids.
"""

from torch import Tensor

from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.config import RegressionConfig
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder


class Regression(Generator):
    """See the head of this file."""

    def __init__(self, config: RegressionConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head)

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "l1"}."""
        decoded = self.transformer.decode(self.transformer.encode(encoded))
        losses = self.head.losses(self.head(decoded, encoded), target, is_pad, valid_steps)
        return self.head.total(losses["l1"], losses)

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        return self.head(self.transformer.decode(self.transformer.encode(encoded)), encoded)
