"""A deterministic autoencoder: ACT without a prior. The chunk becomes a code z, and z the chunk; nothing is drawn in
training and nothing says how codes are distributed.

So it rebuilds what it is shown and cannot generate: whatever is put in the place of z in a rollout (0, a draw from a
normal distribution fitted to the codes, the code of another situation) need not be near any code that belongs here.
"""

import torch
from torch import Tensor

from act.policies.act import ACTPolicy
from act.policies.base import Batch, Observation
from act.policies.config import AutoencoderConfig
from demos.spec import EpisodeSpec

KEPT = 1024  # codes


class AutoencoderPolicy(ACTPolicy):
    """See the head of this file."""

    config: AutoencoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    codes: Tensor  # (KEPT, latent_dim), the newest in training
    count: Tensor  # () int64, how many there ever were

    def __init__(self, config: AutoencoderConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)  # pyright: ignore[reportArgumentType]
        self.register_buffer("codes", torch.zeros(KEPT, config.latent_dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "l1"} and perhaps "pose", "keyframe", "place": mean errors in z-scores of the chunk, rebuilt."""
        image_tokens = self._see(batch.observation)
        code = self._encode_style(batch.observation, self._style(batch), batch.is_pad)[0]
        if self.training:
            with torch.no_grad():
                places = (self.count + torch.arange(len(code), device=code.device)) % KEPT
                self.codes.index_copy_(0, places, code.float())
                self.count += len(code)
        keyframe = self._tell_keyframe(batch.observation, image_tokens)
        seen = self._with(batch.observation, image_tokens, keyframe, self._style_token(code))
        losses = self._chunk_l1(self._decode(seen, self._goal_in(batch, seen)), self._target(batch), batch)
        return self._total(losses | self._auxiliary_losses(batch, image_tokens, keyframe), losses["l1"])

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        return self._decode_code(observation, self._see(observation, memory), self._code(observation, chance), memory)

    def _code(self, observation: Observation, chance: Tensor | None) -> Tensor:
        """What is put in the place of z, (B, latent_dim)."""
        if chance is None:
            return observation.qpos.new_zeros(len(observation.qpos), self.config.latent_dim)
        kept = self.count.clamp(min=1, max=KEPT)
        if self.config.codes == "code":
            share = torch.special.ndtr(chance[:, 0])
            return self.codes[(share * kept).long().clamp(max=KEPT - 1)]
        held = (torch.arange(KEPT, device=chance.device) < kept).float()[:, None]
        mean = (held * self.codes).sum(dim=0) / kept
        apart = held * (self.codes - mean)
        covariance = apart.T @ apart / kept + 1e-6 * torch.eye(len(mean), device=chance.device)
        return mean + chance @ torch.linalg.cholesky(covariance).T

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """ "l1_z0": the L1 with z = 0. "code_std": how far codes lie from their mean, over all dimensions."""
        code = self._encode_style(batch.observation, self._style(batch), batch.is_pad)[0]
        told = self._generate(batch.observation)
        l1 = self._chunk_l1(told, self._target(batch), batch)["l1"]
        return {"l1_z0": l1.item(), "code_std": code.std(dim=0, correction=0).mean().item()}
