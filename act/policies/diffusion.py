"""Diffusion: noise is taken off a chunk little by little (Ho et al. 2020, arXiv 2006.11239; Chi et al. 2023, arXiv
2303.04137, of robots), on a schedule of Hugging Face's diffusers.

The network tells the chunk without noise, and learns from its L1 (see `act.policies.flow_matching`). A rollout takes a
few of the levels (DDIM, Song et al. 2021, arXiv 2010.02502), and draws nothing but the noise that it begins with.
"""

import torch
from torch import Tensor

from act.errors import ConfigError
from act.policies.base import Batch, Observation
from act.policies.config import DiffusionConfig
from act.policies.denoising import DenoisingPolicy
from demos.spec import EpisodeSpec


class DiffusionPolicy(DenoisingPolicy):
    """See the head of this file.

    Raises:
        ConfigError: diffusers is not installed.
    """

    config: DiffusionConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    kept: Tensor  # (noise_levels,), ᾱ, the share of the chunk in its square

    def __init__(self, config: DiffusionConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)
        try:
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        except ImportError as error:
            raise ConfigError('--policy diffusion needs diffusers: pip install -e ".[families]"') from error
        scheduler = DDIMScheduler(
            num_train_timesteps=config.noise_levels, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"
        )
        scheduler.set_timesteps(config.sampling_steps)
        self.register_buffer("kept", scheduler.alphas_cumprod, persistent=False)
        # As numbers: read from a tensor in every step they would make the GPU wait.
        self.levels: list[int] = scheduler.timesteps.tolist()
        self.shares: list[float] = scheduler.alphas_cumprod[self.levels].tolist()  # ᾱ at these levels

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "l1"} and perhaps "pose", "keyframe", "place": mean errors in z-scores, over all levels of noise."""
        seen, target = self._look(batch.observation), self._target(batch)
        level = torch.randint(self.config.noise_levels, (len(target),), device=target.device)
        kept = self.kept[level][:, None, None]
        noisy = kept.sqrt() * target + (1 - kept).sqrt() * torch.randn_like(target)
        told = self._denoise(noisy, level / self.config.noise_levels, seen, self._goal_in(batch, seen))
        losses = self._chunk_l1(told, target, batch)
        return self._total(losses | self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe), losses["l1"])

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        seen = self._look(observation, memory)
        x = self._noise(len(seen.memory), chance)
        for level, share, following in zip(self.levels, self.shares, [*self.shares[1:], 1.0], strict=True):
            told = self._denoise(x, torch.full_like(x[:, 0, 0], level / self.config.noise_levels), seen, seen.keyframe)
            noise = (x - share**0.5 * told) / (1 - share) ** 0.5
            x = following**0.5 * told + (1 - following) ** 0.5 * noise
        return x
