"""What a policy takes: an `Observation`, and in training a `Batch` of them with the actions that followed.

All is in the units of the file: rad, gripper openings 0 closed … 1 open, uint8 RGB frames in (H, W, 3) order.
The policy normalises and converts it, and nothing else does.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Observation:
    """One time step, for B environments or samples."""

    qpos: Tensor  # (B, J) float32, rad; grippers 0 closed … 1 open
    images: dict[str, Tensor] = field(default_factory=dict)  # camera → (B, H, W, 3) uint8 RGB
    env_state: Tensor | None = None  # (B, E) float32 object poses
    features: dict[str, Tensor] = field(default_factory=dict)
    """camera → (B, F) float16, of `Policy.encode_frames`; such a camera needs no image."""
    instruction: Tensor | None = None
    """(B, text_dim) float32, of `Policy.instruction_encoder`."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Observation":
        return Observation(
            self.qpos.to(device, non_blocking=non_blocking),
            {name: frame.to(device, non_blocking=non_blocking) for name, frame in self.images.items()},
            None if self.env_state is None else self.env_state.to(device, non_blocking=non_blocking),
            {name: each.to(device, non_blocking=non_blocking) for name, each in self.features.items()},
            None if self.instruction is None else self.instruction.to(device, non_blocking=non_blocking),
        )

    def repeat(self, i: int, n: int) -> "Observation":
        """Row i of this observation, n times, without its features."""

        def rows(value: Tensor) -> Tensor:
            return value[i : i + 1].expand(n, *value.shape[1:])

        return Observation(
            rows(self.qpos),
            {name: rows(frame) for name, frame in self.images.items()},
            None if self.env_state is None else rows(self.env_state),
            instruction=None if self.instruction is None else rows(self.instruction),
        )


@dataclass
class Batch:
    """One training batch: observations at random starts t, and the k actions commanded from t on."""

    observation: Observation
    action: Tensor  # (B, k, A) float32, physical units
    is_pad: Tensor  # (B, k) bool, True where the episode had ended before that step
    valid_steps: Tensor | None = None
    """() float32: valid steps per sample, as a mean over the whole batch of which this one may be a share. Sums over
    cells divided by it average over shares (of processes, of accumulated gradients) to the whole batch's mean."""
    keyframe: Tensor | None = None
    """(B, K) float32, physical units: each arm's next gripper event, see `demos.hindsight`."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return Batch(
            self.observation.to(device, non_blocking),
            self.action.to(device, non_blocking=non_blocking),
            self.is_pad.to(device, non_blocking=non_blocking),
            None if self.valid_steps is None else self.valid_steps.to(device, non_blocking=non_blocking),
            None if self.keyframe is None else self.keyframe.to(device, non_blocking=non_blocking),
        )
