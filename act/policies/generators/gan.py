"""A conditional GAN: a generator makes a chunk from noise and the observation, and a critic separates its chunks from
demonstrated ones (Goodfellow et al. 2014, arXiv 1406.2661; Mirza and Osindero 2014, arXiv 1411.1784).

Non-saturating losses, and R1, a penalty on the critic's slope at demonstrations (Mescheder et al. 2018, arXiv
1801.04406), here a finite difference between a chunk and a slightly perturbed one, which needs no second derivatives.
Both learn in every step, the critic at a learning rate of its own; each sees the other as it was before the step. With
`l1_weight` the generator also learns from the L1 to the demonstrated chunk, which costs variety.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.config import GANConfig
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import Float32Linear

BETAS = (0.0, 0.99)  # of AdamW: momentum is of no use where the objective moves
PERTURBATION = 0.05  # standard deviations between the two chunks of R1


class GAN(Generator):
    """See the head of this file."""

    def __init__(self, config: GANConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head, own_tokens=1)
        self.config, self.noise_dim = config, config.latent_dim
        self.noise_proj = Float32Linear(config.latent_dim, policy.transformer.d_model)
        self.critic = Critic(head.chunk_dim, encoder.global_cond_dim, config.critic_width)

    def parameter_groups(self, groups: list[dict]) -> list[dict]:
        critic = list(self.critic.parameters())
        own = {id(p) for p in critic}
        groups = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
        return [{**group, "betas": BETAS} for group in [*groups, {"params": critic, "lr": self.config.critic_lr}]]

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "generator_loss", "critic", "r1", "l1"}: at log 2 and 2 log 2 the critic separates nothing; r1 is
        the square of its slope, l1 a number that the loss contains with `l1_weight`.
        """
        config = self.config
        noise = torch.randn(len(target), config.latent_dim, device=target.device)
        chunk = self._decode(encoded, noise)
        condition = encoded.global_cond.detach()
        near = target + PERTURBATION * torch.randn_like(target)
        real, fake, near = self.critic(torch.cat([target, chunk.detach(), near]), condition.repeat(3, 1)).chunk(3)
        critic = F.softplus(-real).mean() + F.softplus(fake).mean()
        r1 = ((near - real) / PERTURBATION).square().mean()
        frozen = {name: value.detach() for name, value in self.critic.named_parameters()}
        generator_loss = F.softplus(-functional_call(self.critic, frozen, (chunk, condition))).mean()
        losses = self.head.losses(chunk, target, is_pad, valid_steps)
        loss = config.adversarial_weight * generator_loss + config.l1_weight * losses["l1"]
        if "ee_position" in losses:
            loss = loss + config.l1_weight * self.head.ee_position_weight * losses["ee_position"]
        loss = loss + critic + config.r1_weight / 2 * r1
        parts = {name: value.detach() for name, value in losses.items()}
        return {"loss": loss, "generator_loss": generator_loss, "critic": critic, "r1": r1, **parts}

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        n, device = len(encoded.image_tokens), encoded.image_tokens.device
        return self._decode(encoded, torch.zeros(n, self.config.latent_dim, device=device) if noise is None else noise)

    def _decode(self, encoded: EncodedObservation, noise: Tensor) -> Tensor:
        memory = self.transformer.encode(encoded, [self.noise_proj(noise)])
        return self.head(self.transformer.decode(memory), encoded)


class Critic(nn.Module):
    """How real a chunk (B, k, C) is, given the observation (B, S): (B,), higher is more real.

    Convolutions along the chunk, and a projection of the observation (Miyato and Koyama 2018, arXiv 1802.05637).
    """

    def __init__(self, chunk_dim: int, global_cond_dim: int, width: int):
        super().__init__()
        channels = (chunk_dim, width, width, width)
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, stride=2, padding=2) for a, b in pairwise(channels))
        self.condition = nn.ModuleList([nn.Linear(global_cond_dim, width), nn.Linear(width, width)])
        self.out = nn.Linear(width, 1)

    def forward(self, chunk: Tensor, global_cond: Tensor) -> Tensor:
        with torch.autocast(chunk.device.type, enabled=False):
            first, second = self.condition
            condition = second(F.leaky_relu(first(global_cond.float()), 0.2))
            x = chunk.float().mT
            for i, layer in enumerate(self.layers):
                x = F.leaky_relu(layer(x), 0.2)
                if i == 0:
                    x = x + condition[..., None]
            x = x.mean(dim=-1)
            return self.out(x).squeeze(-1) + (x * condition).sum(dim=-1)
