"""Diffusion: noise is removed from a chunk step by step (Ho et al. 2020, arXiv 2006.11239; Chi et al. 2023, arXiv
2303.04137, for robots), on a schedule of Hugging Face's diffusers.

The network predicts the chunk without noise, and learns from its L1 (see `flow_matching`). A rollout takes a few of the
timesteps (DDIM, Song et al. 2021, arXiv 2010.02502), and samples nothing but the noise that it starts from.
"""

import torch
from torch import Tensor

from act.errors import ConfigError
from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.config import DiffusionConfig
from act.policies.generators.denoiser import Denoiser
from act.policies.observation import EncodedObservation, ObservationEncoder


class Diffusion(Denoiser):
    """See the head of this file.

    Raises:
        ConfigError: diffusers is not installed.
    """

    alphas_cumprod: Tensor  # (num_train_timesteps,), ᾱ, the share of the chunk in its square

    def __init__(self, config: DiffusionConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead):
        super().__init__(policy, encoder, head)
        self.config = config
        try:
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        except ImportError as error:
            raise ConfigError('--policy diffusion needs diffusers: pip install -e ".[families]"') from error
        scheduler = DDIMScheduler(
            num_train_timesteps=config.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            timestep_spacing="trailing",
        )
        scheduler.set_timesteps(config.num_inference_steps)
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod, persistent=False)
        # As numbers: read from a tensor in every step they would make the GPU wait.
        self.timesteps: list[int] = scheduler.timesteps.tolist()
        self.alphas: list[float] = scheduler.alphas_cumprod[self.timesteps].tolist()  # ᾱ at these

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "l1"} over all timesteps."""
        memory, n = self.transformer.encode(encoded), self.config.num_train_timesteps
        timestep = torch.randint(n, (len(target),), device=target.device)
        alpha = self.alphas_cumprod[timestep][:, None, None]
        noisy = alpha.sqrt() * target + (1 - alpha).sqrt() * torch.randn_like(target)
        losses = self.head.losses(self.denoise(noisy, timestep / n, encoded, memory), target, is_pad, valid_steps)
        return self.head.total(losses["l1"], losses)

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        memory, x, n = self.transformer.encode(encoded), self.start(encoded, noise), self.config.num_train_timesteps
        for timestep, alpha, following in zip(self.timesteps, self.alphas, [*self.alphas[1:], 1.0], strict=True):
            chunk = self.denoise(x, torch.full_like(x[:, 0, 0], timestep / n), encoded, memory)
            noise = (x - alpha**0.5 * chunk) / (1 - alpha) ** 0.5
            x = following**0.5 * chunk + (1 - following) ** 0.5 * noise
        return x
