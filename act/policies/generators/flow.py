"""A normalising flow: an invertible map from noise to chunks, so that the likelihood of a chunk is exact (Rezende and
Mohamed 2015, arXiv 1505.05770), as layers of neural splines (Durkan et al. 2019, arXiv 1906.04032) by zuko.

A chunk becomes the coefficients of its cosine transform. Their centre is regressed and their spread predicted beside
it; the flow models the residual of the leading ones, given the observation: two modes, say. The others, small and many,
have independent normal noise of learned scale.
"""

import math

import torch
from torch import Tensor

from act.errors import ConfigError
from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.config import FlowConfig
from act.policies.generators.cosines import cosines
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import two_layers


class Flow(Generator):
    """See the head of this file.

    Raises:
        ConfigError: zuko is not installed.
    """

    basis: Tensor  # (k, k), all cosines

    def __init__(self, config: FlowConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head, more_queries=1)  # the flow's context
        try:
            from zuko.flows import NSF
        except ImportError as error:
            raise ConfigError('--policy flow needs zuko: pip install -e ".[families]"') from error
        d, k = policy.transformer.d_model, policy.chunk_size
        self.config, self.shape, self.noise_dim = config, (k, head.chunk_dim), k * head.chunk_dim
        self.register_buffer("basis", cosines(k, k), persistent=False)
        self.leading = min(config.coefficients, k) * head.chunk_dim
        self.spread_head = two_layers(d, d, self.noise_dim)  # log of standard deviations
        width = (config.flow_width, config.flow_width)
        passes = 2 if config.coupled else None
        self.flow = NSF(self.leading, d, transforms=config.transforms, passes=passes, hidden_features=width)

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "l1", "nll"}: "nll" is the negative log-likelihood of a number of the chunk in z-scores, "l1" of the
        regressed chunk.
        """
        centre, spread, context = self.regress(encoded)
        nll = -self.log_density(target, centre.detach(), spread, context).mean() / self.noise_dim
        losses = self.head.losses(centre, target, is_pad, valid_steps)
        return self.head.total(losses["l1"] + self.config.nll_weight * nll, losses) | {"nll": nll}

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        """The chunk that the flow makes of the noise; without noise the regressed chunk, between all modes."""
        centre, spread, context = self.regress(encoded)
        if noise is None:
            return centre
        with torch.autocast(centre.device.type, enabled=False):
            noise = self.config.temperature * noise
            leading = self.flow(context).transform.inv(noise[:, : self.leading])
            residual = torch.cat([leading, noise[:, self.leading :]], dim=1).view_as(centre)
            return centre + self.basis.T @ (residual * spread.exp())

    def log_likelihood(self, encoded: EncodedObservation, target: Tensor) -> Tensor:
        return self.log_density(target, *self.regress(encoded))

    def regress(self, encoded: EncodedObservation) -> tuple[Tensor, Tensor, Tensor]:
        """The regressed chunk and the log spread of its coefficients, both (B, k, C), and a context (B, d_model)."""
        decoded = self.transformer.decode(self.transformer.encode(encoded))
        context = decoded[:, -1].float()
        spread = self.spread_head(context).view(-1, *self.shape)
        return self.head(decoded[:, :-1], encoded), spread.clamp(-7, 3), context

    def log_density(self, chunk: Tensor, centre: Tensor, spread: Tensor, context: Tensor) -> Tensor:
        """(B,) nats of chunks in z-scores."""
        with torch.autocast(chunk.device.type, enabled=False):
            residual = (self.basis @ (chunk - centre).float() * (-spread).exp()).flatten(1)
            rest = residual[:, self.leading :]
            normal = -0.5 * (rest.square() + math.log(2 * math.pi)).sum(dim=-1)
            return self.flow(context).log_prob(residual[:, : self.leading]) + normal - spread.flatten(1).sum(dim=-1)
