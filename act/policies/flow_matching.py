"""Flow matching: noise ε flows to a chunk x along a straight line, x_t = (1 - t) ε + t x (Lipman et al. 2023, arXiv
2210.02747; rectified flow, Liu et al. 2023, arXiv 2209.03003).

The network tells x from x_t; the speed along the line is then (x - x_t) / (1 - t), and its squared error is what is
learnt from. A rollout takes a few Euler steps.
"""

import torch
from torch import Tensor

from act.policies.answering import masked_mean
from act.policies.base import Batch, Observation
from act.policies.config import FlowMatchingConfig
from act.policies.denoising import DenoisingPolicy

NEAREST = 0.05  # to t = 1, where the error of the speed would count without end


class FlowMatchingPolicy(DenoisingPolicy):
    """See the head of this file."""

    config: FlowMatchingConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "speed", "l1"} and perhaps "pose", "keyframe", "place".

        "speed" is its mean squared error, "l1" and "place" those of the told chunk in z-scores, which are not learnt
        from.
        """
        seen, target = self._look(batch.observation), self._target(batch)
        t = torch.rand(len(target), device=target.device)
        at = t[:, None, None]
        noisy = (1 - at) * torch.randn_like(target) + at * target
        told = self._denoise(noisy, t, seen, self._goal_in(batch, seen))
        speed = ((told - target) / (1 - at).clamp(min=NEAREST)).square()
        speed = masked_mean(speed, batch.is_pad, batch.valid_steps)
        watched = {name: value.detach() for name, value in self._chunk_l1(told, target, batch).items()}
        losses = {"speed": speed} | self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe)
        return self._total(losses, speed) | watched

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        seen = self._look(observation, memory)
        x, n = self._noise(len(seen.memory), chance), self.config.sampling_steps
        for i in range(n):
            told = self._denoise(x, torch.full_like(x[:, 0, 0], i / n), seen, seen.keyframe)
            x = x + (told - x) / (n - i)  # the last step arrives
        return x
