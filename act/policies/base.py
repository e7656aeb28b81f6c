"""The whole contract of a policy.

A policy sees an `Observation` and answers with a chunk of the next `chunk_size` actions. It is trained on a `Batch`.
All tensors at this border are in the units of the file: radians, gripper openings 0 closed … 1 open, uint8 RGB frames
in (H, W, 3) order. Normalisation and image conversion happen inside the policy and nowhere else.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from act.language import InstructionEncoder
from act.normalizer import Normalizer
from demos.spec import EpisodeSpec


@dataclass
class Observation:
    """What a policy sees at one time step, for B environments or samples."""

    qpos: Tensor  # (B, J) float32, rad; grippers 0 closed … 1 open
    images: dict[str, Tensor] = field(default_factory=dict)  # camera → (B, H, W, 3) uint8 RGB
    env_state: Tensor | None = None  # (B, E) float32 object poses
    features: dict[str, Tensor] = field(default_factory=dict)
    """camera → (B, F) float16, what `Policy.encode_frames` made of its frames before; such a camera needs no image."""
    instruction: Tensor | None = None
    """(B, text_dim) float32, what is told to do, as `Policy.instruction_encoder` embeds it."""

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
    """() float32: valid steps per sample, the mean over the whole batch of which this one may be a share. Sums over
    cells divided by it average over shares (of processes, of accumulated gradients) to the whole batch's mean."""
    keyframe: Tensor | None = None
    """(B, K) float32, physical units: where each arm was going, see `act.keyframes`."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return Batch(
            self.observation.to(device, non_blocking),
            self.action.to(device, non_blocking=non_blocking),
            self.is_pad.to(device, non_blocking=non_blocking),
            None if self.valid_steps is None else self.valid_steps.to(device, non_blocking=non_blocking),
            None if self.keyframe is None else self.keyframe.to(device, non_blocking=non_blocking),
        )


class Policy(nn.Module, ABC):
    """Base of every policy.

    A subclass is built from (config, spec, *, pretrained=True), config being a dataclass of its own with a
    `chunk_size`, and implements `forward` and `predict`. `act.policies.POLICIES` names it. With `pretrained=False` it
    must not download anything: a checkpoint is about to fill in the weights.

    Attributes:
        config: the dataclass that it was built from.
        spec: what the training episodes contained (joints, cameras with sizes, fps).
        chunk_size: k, the number of actions predicted at once.
        cameras: the cameras that this policy looks at, in order; a subset of `spec.cameras`; empty: it needs no images.
        uses_env_state: whether it looks at object poses.
        normalizer: buffers that are fitted once on the training split.
        demonstrated_steps: how long the longest demonstration moved, in steps; 0: not known.
        instruction_encoder: text → vectors; None: the policy takes no instructions.
    """

    config: Any
    spec: EpisodeSpec
    chunk_size: int
    cameras: tuple[str, ...]
    uses_env_state: bool
    normalizer: Normalizer
    demonstrated_steps: int = 0
    instruction_encoder: InstructionEncoder | None = None

    @property
    def horizon(self) -> int:
        """How many steps a rollout should have: 1.2 times what the longest demonstration took, at least 8 seconds."""
        return max(self.spec.robot.steps(8.0), round(1.2 * self.demonstrated_steps))

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Training losses: "loss", the scalar to minimise, and its named parts, all scalars."""

    @property
    def noise_dim(self) -> int:
        """How many random numbers decide between several ways of going on; 0: there is only one."""
        return 0

    @abstractmethod
    def predict(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The next k actions, (B, k, A), in physical units. Deterministic in evaluation mode.

        Args:
            chance: (B, noise_dim) standard normal numbers that decide between ways; None: the mean or most likely one.
            memory: what the policy keeps for itself between two looks of the same episodes; empty at their beginning,
                changed by every call. None: it remembers nothing.
        """

    def encode_frames(self, camera: str, frames: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """What training never changes of how a camera's frames are seen: (B, H, W, 3) uint8 → (B, F) float16.

        It may be computed once for all frames and given as `Observation.features`. None: everything is trained.

        Args:
            generator: where frames to learn from take their augmentation from; None: they are seen as they are.
        """
        return None

    def log_likelihood(self, batch: Batch) -> Tensor | None:
        """Of each demonstrated chunk, (B,) nats, if the policy can tell it exactly; None otherwise."""
        return None

    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """Figures worth plotting that are no losses (a latent's KL per dimension, say), by name."""
        return {}

    def attention(self, observation: Observation) -> dict[str, Tensor]:
        """Where the actions look: camera → (B, h, w) share of attention on each part of its frame; {} if not known."""
        return {}

    def keypoints(self, observation: Observation) -> dict[str, Tensor]:
        """camera → (B, K, 2) places x, y that the policy reads off a frame, from -1 to 1 across it; {} if none."""
        return {}

    def latent(self, batch: Batch) -> Tensor | None:
        """What the policy makes of each demonstrated chunk in training, (B, latent_dim); None if it has no latent."""
        return None

    @property
    def has_latent(self) -> bool:
        """Whether `latent` and `decode` turn chunks into codes and back."""
        return False

    def decode(self, observation: Observation, code: Tensor) -> Tensor | None:
        """What a code, as `latent` tells it, stands for here: the next k actions, (B, k, A), in physical units; None if
        the policy has no codes."""
        return None

    def parameter_groups(self, lr: float) -> list[dict]:
        """Parameter groups for the optimiser; a policy with a backbone may give it a learning rate of its own."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]
