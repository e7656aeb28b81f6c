"""ACT: action chunking with transformers, a conditional VAE (Zhao et al. 2023, arXiv 2304.13705, section IV).

    training    qpos, a_1 … a_k ── posterior ──► μ, σ ──► z = μ + σ ε;  loss L1(â, a) + β KL(N(μ, σ²) ‖ prior)
    inference                                             z = the prior's mean, or a sample of it
    both        z, qpos, (object poses), image tokens ── encoder ── decoder, k learned queries ──► â_1 … â_k

Differences from the published code:
- L1 is divided by the number of valid cells; the original divides by all, so short remainders of episodes count less.
- The chunk is the last decoder layer's output. The original returns the first layer's, whatever the depth: its "7
  layers" act as 1. The default is therefore 1, about 52 M parameters in all; 7 gives 84 M.
- Object poses may be one more token, beside images or instead of them; `act.policies.observation` has more options.
- In evaluation mode z is the posterior's mean instead of a sample, so that the validation loss is deterministic.
- The prior is N(0, 1), as published, or, as an option, learned: a normal distribution predicted from the observation
  (Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative Models", section 4).
  β then penalises only what the observation leaves open, and can be small.
- An option: the first nats cost the posterior nothing (Kingma et al. 2016, arXiv 1606.04934, appendix C8), while a
  learned prior still follows it (Hafner et al. 2023, arXiv 2301.04104, have both). Without them z collapses in the
  first steps, before the decoder uses it.
- An option: the instruction is an input of posterior, prior and decoder (the condition of a conditional VAE).
- An option: end-effector positions are predicted as well, and IK brings the tools there (`act.policies.actions`).
- ACT without the VAE is the generator `regression`: it has no z token, where the original feeds zeros.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from act.policies.actions import ActionHead, masked_l1
from act.policies.config import PolicyConfig
from act.policies.generators.config import CVAEConfig
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import Encoder, Float32Linear, sinusoid_1d, two_layers


class Posterior(nn.Module):
    """q(z | qpos, instruction, a_1 … a_k): a transformer encoder whose first token becomes μ and log σ²."""

    position: Tensor

    def __init__(
        self, n_layers: int, latent_dim: int, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead
    ):
        super().__init__()
        d = policy.transformer.d_model
        self.cls_token = nn.Parameter(torch.randn(d))
        self.qpos_proj = Float32Linear(encoder.token_dims["qpos"], d)
        self.action_proj = Float32Linear(head.action_dim, d)
        self.encoder = Encoder(n_layers, *policy.transformer.layer)
        self.head = Float32Linear(d, 2 * latent_dim)
        tokens = 2 + policy.chunk_size + (policy.language is not None)
        self.register_buffer("position", sinusoid_1d(tokens, d), persistent=False)

    def forward(
        self, qpos: Tensor, instruction: Tensor | None, actions: Tensor, is_pad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """μ and log σ², each (B, latent_dim) float32, of (B, J) and (B, k, A) z-scores, padding zeroed."""
        tokens = [repeat(self.cls_token, "d -> b 1 d", b=len(qpos)), self.qpos_proj(qpos)[:, None]]
        tokens += [] if instruction is None else [instruction[:, None]]
        is_pad = F.pad(is_pad, (len(tokens), 0), value=False)
        encoded = self.encoder(torch.cat([*tokens, self.action_proj(actions)], dim=1), self.position, is_pad)
        mu, logvar = self.head(encoded[:, 0]).chunk(2, dim=-1)
        return mu, logvar


class CVAE(Generator):
    """See the head of this file."""

    has_latent = True

    def __init__(self, config: CVAEConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head, own_tokens=1)
        self.config, self.noise_dim, d = config, config.latent_dim, policy.transformer.d_model
        self.posterior = Posterior(config.n_vae_encoder_layers, config.latent_dim, policy, encoder, head)
        self.latent_proj = Float32Linear(config.latent_dim, d)
        self.prior_head = None  # μ, log σ² of p(z | observation)
        if config.prior == "learned":
            self.prior_head = two_layers(encoder.global_cond_dim, d, 2 * config.latent_dim)

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "l1", "kl"}; loss = l1 + kl_weight · max(kl, free_nats), kl in nats."""
        mu, logvar = self._posterior(encoded, target, is_pad)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp() if self.training else mu
        prior = self._prior(encoded)
        kl = kl_divergence(mu, logvar, *prior).sum(dim=-1).mean()
        following = kl_divergence(mu.detach(), logvar.detach(), *prior).sum(dim=-1).mean()  # the prior's gradient alone
        free_nats = self.config.free_nats
        kl_penalty = torch.where(kl > free_nats, kl, following + (free_nats - kl).detach())
        losses = self.head.losses(self._decode(encoded, z), target, is_pad, valid_steps)
        return self.head.total(losses["l1"] + self.config.kl_weight * kl_penalty, losses) | {"kl": kl}

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        """The chunk of z = the prior's mean, or of z = μ + σ · noise."""
        z, logvar = self._prior(encoded)
        return self._decode(encoded, z if noise is None else z + (logvar / 2).exp() * noise)

    def latent(self, qpos: Tensor, instruction: Tensor | None, target: Tensor, is_pad: Tensor) -> Tensor:
        """The posterior's mean."""
        return self.posterior(qpos, instruction, self.masked_actions(target, is_pad), is_pad)[0]

    def decode(self, encoded: EncodedObservation, latent: Tensor) -> Tensor:
        return self._decode(encoded, latent)

    def diagnostics(self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor) -> dict[str, float]:
        """What the latent does on this batch; the larger the batch, the better the count of active units.

        "l1_z0" is the L1 with the prior's mean, as at inference. "active_units" counts the dimensions whose posterior
        mean varies between samples, in standard deviations of the prior: Var_x(E[z|x]) > 0.01 (Burda et al. 2016, arXiv
        1509.00519). "posterior_std" is the mean σ, 1 if nothing is encoded. "kl_dim/00" … are nats per dimension, mean
        over the batch.
        """
        n = self.head.action_dim
        l1 = masked_l1(self.sample(encoded)[..., :n], self.masked_actions(target, is_pad), is_pad)
        mu, logvar = self._posterior(encoded, target, is_pad)
        prior_mu, prior_logvar = self._prior(encoded)
        shift = (mu - prior_mu) * (-prior_logvar / 2).exp()
        per_dim = kl_divergence(mu, logvar, prior_mu, prior_logvar).mean(dim=0).tolist()
        return {
            "l1_z0": l1.item(),
            "active_units": float((shift.var(dim=0, correction=0) > 0.01).sum()),
            "posterior_std": ((logvar - prior_logvar) / 2).exp().mean().item(),
            **{f"kl_dim/{i:02d}": kl for i, kl in enumerate(per_dim)},
        }

    def _posterior(self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        actions = self.masked_actions(target, is_pad)
        return self.posterior(encoded.vectors["qpos"], encoded.instruction, actions, is_pad)

    def _prior(self, encoded: EncodedObservation) -> Sequence[Tensor]:
        """μ and log σ² of p(z | observation), each (B, latent_dim) float32."""
        if self.prior_head is None:
            zero = encoded.image_tokens.new_zeros(
                len(encoded.image_tokens), self.config.latent_dim, dtype=torch.float32
            )
            return zero, zero
        return self.prior_head(encoded.global_cond).chunk(2, dim=-1)

    def _decode(self, encoded: EncodedObservation, z: Tensor) -> Tensor:
        """The chunk (B, k, C) of z."""
        memory = self.transformer.encode(encoded, [self.latent_proj(z)])
        return self.head(self.transformer.decode(memory), encoded)


def kl_divergence(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ_p, σ_p²)) per dimension, nats; in and out (B, latent_dim).

    With μ_p = 0 and σ_p = 1 that of Kingma and Welling 2014, appendix B.
    """
    ratio = ((mu - prior_mu).square() + logvar.exp()) * (-prior_logvar).exp()
    return (ratio - 1 + prior_logvar - logvar) / 2
