"""A normalising flow: an invertible map from noise to chunks, so that the likelihood of a chunk is exact (Rezende and
Mohamed 2015, arXiv 1505.05770), as layers of neural splines (Durkan et al. 2019, arXiv 1906.04032) by zuko.

A chunk becomes the coefficients of its cosine transform. Where they lie and how far they spread is told as in
regression, the spread beside it; the flow shapes what is left of the leading ones, given what is seen: two ways, say.
The others, small and many, keep independent normal noise of learnt scale.
"""

import math

import torch
from torch import Tensor

from act.errors import ConfigError
from act.policies.answering import AnsweringPolicy, Seen
from act.policies.base import Batch, Observation
from act.policies.config import FlowConfig
from act.policies.seeing import two_layers
from act.policies.spectrum import cosines
from demos.spec import EpisodeSpec


class FlowPolicy(AnsweringPolicy):
    """See the head of this file.

    Raises:
        ConfigError: zuko is not installed.
    """

    config: FlowConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    basis: Tensor  # (k, k), all cosines

    def __init__(self, config: FlowConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)
        try:
            from zuko.flows import NSF
        except ImportError as error:
            raise ConfigError('--policy flow needs zuko: pip install -e ".[families]"') from error
        d, k = config.d_model, config.chunk_size
        self.register_buffer("basis", cosines(k, k), persistent=False)
        self._make_decoder(more=1)  # for the flow's context
        self.leading = min(config.coefficients, k) * self.chunk_dim
        self.spread_head = two_layers(d, d, k * self.chunk_dim)  # log of standard deviations
        width = (config.flow_width, config.flow_width)
        passes = 2 if config.coupled else None
        self.flow = NSF(self.leading, d, transforms=config.transforms, passes=passes, hidden_features=width)

    @property
    def noise_dim(self) -> int:
        return self.chunk_size * self.chunk_dim

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "nats", "l1"} and perhaps "pose", "keyframe", "place".

        "nats" is the negative log-likelihood of a number of the chunk in z-scores, and learnt from; so are "l1" and
        "place", of what is told without the flow.
        """
        seen = self._look(batch.observation)
        target = self._target(batch)
        told, spread, context = self._tell(seen, self._goal_in(batch, seen))
        nats = -self._log_density(target, told.detach(), spread, context).mean() / (self.chunk_size * self.chunk_dim)
        losses = self._chunk_l1(told, target, batch) | {"nats": nats}
        losses |= self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe)
        return self._total(losses, losses["l1"] + self.config.nats_weight * nats)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Tensor:
        seen = self._look(batch.observation)
        return self._log_density(self._target(batch), *self._tell(seen, self._goal_in(batch, seen)))

    def _tell(self, seen: Seen, goal: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Where a chunk lies and the log of how far its coefficients spread, (B, k, C) both; a context (B, d_model)."""
        decoded = self.decoder(self.query, seen.memory, seen.position)
        context = decoded[:, -1].float()
        spread = self.spread_head(context).view(-1, self.chunk_size, self.chunk_dim)
        return self._told(decoded[:, :-1], seen.qpos, goal), spread.clamp(-7, 3), context

    def _log_density(self, chunk: Tensor, told: Tensor, spread: Tensor, context: Tensor) -> Tensor:
        """(B,) nats of chunks in z-scores."""
        with torch.autocast(chunk.device.type, enabled=False):
            left = (self.basis @ (chunk - told).float() * (-spread).exp()).flatten(1)
            rest = left[:, self.leading :]
            normal = -0.5 * (rest.square() + math.log(2 * math.pi)).sum(dim=-1)
            return self.flow(context).log_prob(left[:, : self.leading]) + normal - spread.flatten(1).sum(dim=-1)

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The chunk that `chance` becomes; without, what is told without the flow: the middle of all ways."""
        seen = self._look(observation, memory)
        told, spread, context = self._tell(seen, seen.keyframe)
        if chance is None:
            return told
        with torch.autocast(told.device.type, enabled=False):
            chance = self.config.temperature * chance
            leading = self.flow(context).transform.inv(chance[:, : self.leading])
            left = torch.cat([leading, chance[:, self.leading :]], dim=1).view_as(told)
            return told + self.basis.T @ (left * spread.exp())
