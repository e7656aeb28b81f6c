"""A deterministic autoencoder: ACT without a prior. The chunk becomes a latent z, and z the chunk; training samples
nothing, and nothing controls how latents are distributed.

So it reconstructs chunks and cannot generate them: whatever takes the place of z in a rollout (0, a sample of a normal
distribution fitted to the latents, the latent of another situation) need not be near any latent that belongs there.
"""

import torch
from torch import Tensor

from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.config import AutoencoderConfig
from act.policies.generators.cvae import Posterior
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import Float32Linear

STORED = 1024  # latents


class Autoencoder(Generator):
    """See the head of this file."""

    has_latent = True
    codes: Tensor  # (STORED, latent_dim), the newest latents of training
    count: Tensor  # () int64, how many there ever were

    def __init__(self, config: AutoencoderConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head, own_tokens=1)
        self.config, self.noise_dim = config, config.latent_dim
        self.posterior = Posterior(config.n_vae_encoder_layers, config.latent_dim, policy, encoder, head)
        self.latent_proj = Float32Linear(config.latent_dim, policy.transformer.d_model)
        self.register_buffer("codes", torch.zeros(STORED, config.latent_dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "l1"} of the reconstructed chunk."""
        z = self.latent(encoded.vectors["qpos"], encoded.instruction, target, is_pad)
        if self.training:
            with torch.no_grad():
                places = (self.count + torch.arange(len(z), device=z.device)) % STORED
                self.codes.index_copy_(0, places, z.float())
                self.count += len(z)
        losses = self.head.losses(self.decode(encoded, z), target, is_pad, valid_steps)
        return self.head.total(losses["l1"], losses)

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        return self.decode(encoded, self._sample_latent(encoded, noise))

    def latent(self, qpos: Tensor, instruction: Tensor | None, target: Tensor, is_pad: Tensor) -> Tensor:
        return self.posterior(qpos, instruction, self.masked_actions(target, is_pad), is_pad)[0]

    def decode(self, encoded: EncodedObservation, latent: Tensor) -> Tensor:
        memory = self.transformer.encode(encoded, [self.latent_proj(latent)])
        return self.head(self.transformer.decode(memory), encoded)

    def _sample_latent(self, encoded: EncodedObservation, noise: Tensor | None) -> Tensor:
        """(B, latent_dim)"""
        if noise is None:
            return self.codes.new_zeros(len(encoded.image_tokens), self.config.latent_dim)
        n = self.count.clamp(min=1, max=STORED)
        if self.config.codes == "code":
            share = torch.special.ndtr(noise[:, 0])
            return self.codes[(share * n).long().clamp(max=STORED - 1)]
        stored = (torch.arange(STORED, device=noise.device) < n).float()[:, None]
        mean = (stored * self.codes).sum(dim=0) / n
        centred = stored * (self.codes - mean)
        covariance = centred.T @ centred / n + 1e-6 * torch.eye(len(mean), device=noise.device)
        return mean + noise @ torch.linalg.cholesky(covariance).T

    def diagnostics(self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor) -> dict[str, float]:
        """ "l1_z0": the L1 with z = 0. "code_std": standard deviation of the latents, mean over dimensions."""
        z = self.latent(encoded.vectors["qpos"], encoded.instruction, target, is_pad)
        l1 = self.head.losses(self.sample(encoded), target, is_pad)["l1"]
        return {"l1_z0": l1.item(), "code_std": z.std(dim=0, correction=0).mean().item()}
