"""A conditional GAN: a generator makes a chunk from noise and what is seen, and a critic tells its chunks from
demonstrated ones (Goodfellow et al. 2014, arXiv 1406.2661; Mirza and Osindero 2014, arXiv 1411.1784).

Non-saturating losses, and a critic held smooth where demonstrations are by a penalty on its slope (R1, Mescheder et al.
2018, arXiv 1801.04406), here between a chunk and one a little beside it, which needs no second derivatives. Both learn
in every step, the critic at a rate of its own; each sees the other as it was before the step. With `l1_weight` the
generator is also told which chunk was demonstrated, which costs it variety.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from act.policies.answering import AnsweringPolicy
from act.policies.base import Batch, Observation
from act.policies.config import GANConfig
from act.policies.transformer import Float32Linear
from demos.spec import EpisodeSpec

BETAS = (0.0, 0.99)  # of AdamW: the moment of a gradient whose goal moves is of no use
BESIDE = 0.05  # standard deviations between the two chunks that tell the critic's slope


class GANPolicy(AnsweringPolicy):
    """See the head of this file."""

    config: GANConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: GANConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained, vectors=1)
        self.noise_proj = Float32Linear(config.latent_dim, config.d_model)
        self._make_decoder()
        self.critic = Critic(self.chunk_dim, self.summary_dim, config.critic_width)

    @property
    def noise_dim(self) -> int:
        return self.config.latent_dim

    def parameter_groups(self, lr: float) -> list[dict]:
        critic = list(self.critic.parameters())
        ours = {id(p) for p in critic}
        groups = [
            {**group, "params": [p for p in group["params"] if id(p) not in ours]}
            for group in super().parameter_groups(lr)
        ]
        groups.append({"params": critic, "lr": self.config.critic_lr})
        return [{**group, "betas": BETAS} for group in groups]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "fooled", "critic", "slope", "l1"} and perhaps "pose", "keyframe", "place": the generator's and the
        critic's losses (at log 2 and 2 log 2 the critic tells nothing apart), the square of the critic's slope, and
        mean errors in z-scores.
        """
        config, target = self.config, self._target(batch)
        image_tokens = self._see(batch.observation)
        keyframe = self._tell_keyframe(batch.observation, image_tokens)
        noise = torch.randn(len(target), config.latent_dim, device=target.device)
        seen = self._with(batch.observation, image_tokens, keyframe, [self.noise_proj(noise)])
        made = self._decode(seen, self._goal_in(batch, seen))
        condition = self._summary(batch.observation, image_tokens).detach()
        beside = target + BESIDE * torch.randn_like(target)
        judged = self.critic(torch.cat([target, made.detach(), beside]), condition.repeat(3, 1))
        real, fake, near = judged.chunk(3)
        critic, slope = F.softplus(-real).mean() + F.softplus(fake).mean(), ((near - real) / BESIDE).square().mean()
        as_it_is = {name: value.detach() for name, value in self.critic.named_parameters()}
        fooled = F.softplus(-functional_call(self.critic, as_it_is, (made, condition))).mean()
        l1 = self._chunk_l1(made, target, batch)
        own = config.adversarial_weight * fooled + config.l1_weight * l1["l1"]
        if "place" in l1:
            own = own + config.l1_weight * config.place_weight * l1["place"]
        losses = {"fooled": fooled, "critic": critic, "slope": slope}
        losses |= self._auxiliary_losses(batch, image_tokens, keyframe)
        return self._total(losses, own + critic + config.slope_weight / 2 * slope) | {
            name: value.detach() for name, value in l1.items()
        }

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        image_tokens = self._see(observation, memory)
        keyframe = self._tell_keyframe(observation, image_tokens, memory)
        n = len(observation.qpos)
        noise = observation.qpos.new_zeros(n, self.config.latent_dim) if chance is None else chance
        seen = self._with(observation, image_tokens, keyframe, [self.noise_proj(noise)])
        return self._decode(seen, keyframe)


class Critic(nn.Module):
    """How real a chunk (B, k, C) looks where (B, S) is seen: (B,), higher is more real.

    Convolutions along the chunk, and a projection of what is seen (Miyato and Koyama 2018, arXiv 1802.05637).
    """

    def __init__(self, chunk_dim: int, summary_dim: int, width: int):
        super().__init__()
        channels = (chunk_dim, width, width, width)
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, stride=2, padding=2) for a, b in pairwise(channels))
        self.condition = nn.ModuleList([nn.Linear(summary_dim, width), nn.Linear(width, width)])
        self.out = nn.Linear(width, 1)

    def forward(self, chunk: Tensor, seen: Tensor) -> Tensor:
        with torch.autocast(chunk.device.type, enabled=False):
            first, second = self.condition
            wanted = second(F.leaky_relu(first(seen.float()), 0.2))
            x = chunk.float().mT
            for i, layer in enumerate(self.layers):
                x = F.leaky_relu(layer(x), 0.2)
                if i == 0:
                    x = x + wanted[..., None]
            x = x.mean(dim=-1)
            return self.out(x).squeeze(-1) + (x * wanted).sum(dim=-1)
