"""ACT: action chunking with transformers, a conditional VAE (Zhao et al. 2023, arXiv 2304.13705, section IV).

    training    qpos, a_1 … a_k ── style encoder ──► μ, σ ──► z = μ + σ ε;  loss L1(â, a) + β KL(N(μ, σ²) ‖ prior)
    inference                                                 z = the prior's mean, or drawn from it
    both        z, qpos, (object poses), image tokens ── encoder ── decoder, k learned queries ──► â_1 … â_k

Where this differs from the published code:
- L1 is divided by the number of valid cells; the original divides by all, so short remainders of episodes counted less.
- The answer is the last decoder layer's. The original returns the first one's, whatever the depth: its "7 layers" act
  as 1. The default is therefore 1, about 52 M parameters in all; 7 gives 84 M.
- Object poses may be one more token, beside images or instead of them; `act.policies.seeing` has more options of ours.
- In evaluation mode z is the posterior's mean instead of a draw: the validation loss is then a fixed number.
- The prior is N(0, 1), as published, or, as an option of ours, learned: a normal distribution told from the observation
  (Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative Models", section 4).
  Then β prices only what the observation leaves open, and can be small.
- An option of ours: the first nats are free for the style encoder (Kingma et al. 2016, arXiv 1606.04934, appendix C8),
  while a learned prior goes on following it (Hafner et al. 2023, arXiv 2301.04104, have both). Without, z is given up
  in the first steps, before the decoder has learnt to listen to it.
- An option of ours: encoder, prior and decoder are told in words what to do (the condition C of a conditional VAE).
- An option of ours: the tools are told where to be as well, and brought there (`act.reach`).
- Without the VAE there is no z token at all; the original feeds it zeros.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from act.policies.answering import AnsweringPolicy, masked_l1
from act.policies.base import Batch, Observation
from act.policies.config import ACTConfig
from act.policies.seeing import transformer_shape, two_layers
from act.policies.transformer import Encoder, Float32Linear, sinusoid_1d
from demos.spec import EpisodeSpec


class ACTPolicy(AnsweringPolicy):
    """See the head of this file.

    Args:
        config: the settings.
        spec: what the episodes contain: joints, cameras with sizes, length of the object poses.
        pretrained: False builds the backbone without downloading weights, for a checkpoint to fill in.

    Raises:
        ConfigError: the config asks for cameras or object poses that the episodes do not have, or see `make_backbone`.
    """

    config: ACTConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    position_of_style: Tensor

    def __init__(self, config: ACTConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained, vectors=int(config.use_vae))
        n_joints, d, k = len(spec.joint_names), config.d_model, config.chunk_size
        shape = transformer_shape(config)

        self.prior_head = None  # μ, log σ² of p(z | observation)
        if config.use_vae:  # q(z | qpos, a_1 … a_k)
            self.cls_token = nn.Parameter(torch.randn(d))
            self.style_qpos_proj = Float32Linear(n_joints, d)
            self.style_action_proj = Float32Linear(n_joints, d)
            self.style_encoder = Encoder(config.n_style_layers, *shape)
            self.latent_head = Float32Linear(d, 2 * config.latent_dim)  # μ, log σ²
            self.latent_proj = Float32Linear(config.latent_dim, d)
            tokens = 2 + k + bool(config.text_encoder)
            self.register_buffer("position_of_style", sinusoid_1d(tokens, d), persistent=False)
            if config.prior == "learned":
                self.prior_head = two_layers(self.summary_dim, d, 2 * config.latent_dim)
        self._make_decoder()
        self.register_load_state_dict_pre_hook(_as_of_now)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "l1", "kl"} and perhaps "pose", "keyframe", "place": mean errors in z-scores, but kl is in nats.

        loss = l1 + kl_weight · max(kl, free_nats) + pose_weight · pose + keyframe_weight · keyframe
                  + place_weight · place
        """
        config, observation, target = self.config, batch.observation, self._target(batch)
        z, kl, price = None, target.new_zeros(()), target.new_zeros(())
        image_tokens = self._see(observation)
        if config.use_vae:
            mu, logvar = self._encode_style(observation, self._style(batch), batch.is_pad)
            z = mu + torch.randn_like(mu) * (logvar / 2).exp() if self.training else mu
            prior = self._prior(observation, image_tokens)
            kl = kl_divergence(mu, logvar, *prior).sum(dim=-1).mean()
            free = kl_divergence(mu.detach(), logvar.detach(), *prior).sum(dim=-1).mean()
            price = torch.where(kl > config.free_nats, kl, free + (config.free_nats - kl).detach())
        keyframe = self._tell_keyframe(observation, image_tokens)
        seen = self._with(observation, image_tokens, keyframe, self._style_token(z))
        told = self._decode(seen, self._goal_in(batch, seen))
        losses = self._chunk_l1(told, target, batch) | self._auxiliary_losses(batch, image_tokens, keyframe)
        return self._total(losses | {"kl": kl}, losses["l1"] + config.kl_weight * price)

    @property
    def noise_dim(self) -> int:
        return self.config.latent_dim if self.config.use_vae else 0

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """What the latent does on this batch; the larger the batch, the better the count of active units.

        "l1_z0" is the L1 with the prior's mean, as at inference. "active_units" counts the dimensions whose posterior
        mean varies between samples, seen from the prior in its standard deviations: Var_x(E[z|x]) > 0.01 (Burda et al.
        2016, arXiv 1509.00519). "posterior_std" is the mean σ in those, 1 if nothing is encoded. "kl_dim/00" … are nats
        per dimension, mean over the batch.
        """
        target, n = self._style(batch), len(self.spec.joint_names)
        figures = {"l1_z0": masked_l1(self._generate(batch.observation)[..., :n], target, batch.is_pad).item()}
        if self.config.use_vae:
            mu, logvar = self._encode_style(batch.observation, target, batch.is_pad)
            prior_mu, prior_logvar = self._prior(batch.observation, self._see(batch.observation))
            shift = (mu - prior_mu) * (-prior_logvar / 2).exp()
            figures["active_units"] = float((shift.var(dim=0, correction=0) > 0.01).sum())
            figures["posterior_std"] = ((logvar - prior_logvar) / 2).exp().mean().item()
            per_dim = kl_divergence(mu, logvar, prior_mu, prior_logvar).mean(dim=0).tolist()
            figures |= {f"kl_dim/{i:02d}": kl for i, kl in enumerate(per_dim)}
        return figures

    @torch.no_grad()
    def attention(self, observation: Observation) -> dict[str, Tensor]:
        """Of the last decoder layer's queries to the memory, mean over actions and heads; vectors take the rest."""
        if self.vision is None:
            return {}
        cross: Any = self.decoder.layers[-1].cross_attention
        inputs: list[tuple[Tensor, ...]] = []
        hook = cross.register_forward_pre_hook(lambda _, given: inputs.append(given))
        try:
            self.predict(observation)
        finally:
            hook.remove()
        query, key, _ = inputs[0]
        shares = cross.weights(query, key).mean(dim=(1, 2))  # (B, tokens)
        return self.vision.as_maps(shares[:, len(self.vector_position) :])

    @torch.no_grad()
    def latent(self, batch: Batch) -> Tensor | None:
        """The posterior's mean of z."""
        if not self.config.use_vae:
            return None
        return self._encode_style(batch.observation, self._style(batch), batch.is_pad)[0]

    def _style(self, batch: Batch) -> Tensor:
        """Actions as z-scores, (B, k, A); padded ones are zeroed, so not even a NaN there can reach a sum."""
        action = self.normalizer.normalize("action", batch.action)
        return action.masked_fill(rearrange(batch.is_pad, "b k -> b k 1"), 0.0)

    def _encode_style(self, observation: Observation, target: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z | qpos, a_1 … a_k, and what was told), each (B, latent_dim) float32."""
        qpos = self.style_qpos_proj(self.normalizer.normalize("qpos", observation.qpos))
        cls = repeat(self.cls_token, "d -> b 1 d", b=len(qpos))
        tokens = [cls, rearrange(qpos, "b d -> b 1 d"), self.style_action_proj(target)]
        tokens[2:2] = [told[:, None] for told in self._instruction(observation)]
        is_pad = F.pad(is_pad, (len(tokens) - 1, 0), value=False)
        tokens = torch.cat(tokens, dim=1)
        encoded = self.style_encoder(tokens, self.position_of_style, is_pad)
        mu, logvar = self.latent_head(encoded[:, 0]).chunk(2, dim=-1)
        return mu, logvar

    def _prior(self, observation: Observation, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of p(z | observation), each (B, latent_dim) float32."""
        if self.prior_head is None:
            zero = observation.qpos.new_zeros(len(observation.qpos), self.config.latent_dim)
            return zero, zero
        mu, logvar = self.prior_head(self._summary(observation, image_tokens)).chunk(2, dim=-1)
        return mu, logvar

    def _generate(
        self,
        observation: Observation,
        chance: Tensor | None = None,
        memory: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """A chunk (B, k, C) with z = the prior's mean, 0 if it is standard, or drawn from it, z = μ + σ · chance."""
        image_tokens, z = self._see(observation, memory), None
        if self.config.use_vae:
            z, logvar = self._prior(observation, image_tokens)
            if chance is not None:
                z = z + (logvar / 2).exp() * chance
        return self._decode_code(observation, image_tokens, z, memory)

    @property
    def has_latent(self) -> bool:
        return self.config.use_vae

    @torch.no_grad()
    def decode(self, observation: Observation, code: Tensor) -> Tensor | None:
        if not self.config.use_vae:
            return None
        return self._as_actions(self._decode_code(observation, self._see(observation), code))

    @torch.no_grad()
    def log_likelihood_bound(self, batch: Batch, draws: int, scale: float) -> Tensor:
        """A lower bound of each demonstrated chunk's log-likelihood, (B,) nats, closer with more draws of z; without a
        latent it is exact.

        Importance-weighted (Burda et al. 2016, arXiv 1509.00519, equation 8). The chunk's joints in z-scores have
        Laplace noise of one scale around what is decoded, whose likelihood L1 is but for a factor.
        """
        target, n = self._style(batch), len(self.spec.joint_names)
        image_tokens, weights = self._see(batch.observation), []
        for _ in range(draws):
            z, ratio = None, target.new_zeros(len(target))
            if self.config.use_vae:
                mu, logvar = self._encode_style(batch.observation, target, batch.is_pad)
                chance = torch.randn_like(mu)
                z = mu + (logvar / 2).exp() * chance
                prior_mu, prior_logvar = self._prior(batch.observation, image_tokens)
                prior = (z - prior_mu).square() * (-prior_logvar).exp() + prior_logvar
                ratio = 0.5 * (chance.square() + logvar - prior).sum(dim=-1)
            told = self._decode_code(batch.observation, image_tokens, z)[..., :n]
            misses = (told - target).abs().masked_fill(rearrange(batch.is_pad, "b k -> b k 1"), 0.0).sum(dim=(1, 2))
            numbers = n * (~batch.is_pad).sum(dim=1)
            weights.append(ratio - misses / scale - numbers * math.log(2 * scale))
        return torch.stack(weights).logsumexp(dim=0) - math.log(draws)

    def _decode_code(
        self, observation: Observation, image_tokens: Tensor, z: Tensor | None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The chunk (B, k, C) of z, places measured from the keyframe that is told."""
        keyframe = self._tell_keyframe(observation, image_tokens, memory)
        return self._decode(self._with(observation, image_tokens, keyframe, self._style_token(z)), keyframe)

    def _style_token(self, z: Tensor | None) -> list[Tensor]:
        return [] if z is None else [self.latent_proj(z)]


def _as_of_now(policy: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights of a checkpoint of former times: of places that were a share of the keyframe, the same in all directions,
    and 3 numbers; of keyframes told without the grippers and without the way that is left to them.
    """
    for name in (f"{prefix}place_head.weight", f"{prefix}place_head.bias"):
        if name in weights and len(weights[name]) == 8:
            added, share = weights[name].unflatten(0, (2, 4)).split([3, 1], dim=1)
            weights[name] = torch.cat([added, torch.zeros_like(added), share.expand_as(added)], dim=1).flatten(0, 1)
    for name in ("keyframe_head.0.weight", "keyframe_proj.weight"):
        if (told := prefix + name) in weights:
            missing = policy.get_parameter(name).shape[1] - weights[told].shape[1]
            if 0 < missing <= 6:  # anything else is not of former times: it does not fit
                weights[told] = F.pad(weights[told], (0, missing))


def kl_divergence(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ_p, σ_p²)) per dimension, nats; in and out (B, latent_dim).

    With μ_p = 0 and σ_p = 1 that of Kingma and Welling 2014, appendix B.
    """
    ratio = ((mu - prior_mu).square() + logvar.exp()) * (-prior_logvar).exp()
    return (ratio - 1 + prior_logvar - logvar) / 2
