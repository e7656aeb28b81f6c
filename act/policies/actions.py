"""Actions ↔ chunks: what a generator makes, whatever it is.

A chunk x is (B, k, C): each action's joints as z-scores and, with `--ee-position-weight`, each arm's end-effector
position as z-scores as well, 3 more numbers an arm. In rollouts IK corrects the joints to reach these positions.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from act.kinematics import correct_to_ee_positions, forward_kinematics
from act.normalizer import Normalizer
from act.policies.config import PolicyConfig
from act.policies.observation import EncodedObservation, ObservationEncoder
from demos.spec import EpisodeSpec


class ActionHead(nn.Module):
    """See the head of this file.

    Attributes:
        chunk_dim: C.
        ee_position_weight: weight of the L1 of the positions; 0: the chunk has none.
    """

    def __init__(self, config: PolicyConfig, spec: EpisodeSpec, encoder: ObservationEncoder):
        super().__init__()
        keyframes = None if config.vision is None else config.vision.keyframes
        has_positions = encoder.has_kinematics and spec.has_ee_positions
        token = keyframes.token if keyframes is not None and has_positions else None
        self.ee_position_weight = 0.0 if token is None else token.ee_position_weight
        self.robot, self.n_arms, self.action_dim = spec.robot, len(spec.robot.arms), spec.action_dim  # A
        positions = 3 * self.n_arms * (self.ee_position_weight > 0)
        self.chunk_dim = self.action_dim + positions
        self.normalizer = Normalizer({"action": self.action_dim} | ({"ee_position": positions} if positions else {}))
        self.joints = nn.Linear(config.transformer.d_model, self.action_dim)
        self.ee_positions = nn.Linear(config.transformer.d_model, 3 * positions) if positions else None

    def target(self, action: Tensor) -> Tensor:
        """The demonstrated chunk, (B, k, C), of actions (B, k, A); after an episode's end its last action repeats."""
        stats = self.normalizer
        chunk = (action - stats.action_mean) / stats.action_std
        if self.ee_positions is None:
            return chunk
        positions = (
            forward_kinematics(self.robot, action).flatten(-2) - stats.ee_position_mean
        ) / stats.ee_position_std
        return torch.cat([chunk, positions], dim=-1)

    def forward(self, decoded: Tensor, encoded: EncodedObservation) -> Tensor:
        """A chunk (B, k, C), read off decoded tokens (B, k, d_model).

        In each direction the position of an end effector is a share of its present one, a share of its keyframe, and
        what the network adds. A way from here to there is then the same few numbers wherever the object lies.
        """
        stats = self.normalizer
        with torch.autocast(decoded.device.type, enabled=False):
            joints = self.joints(decoded.float())
            if self.ee_positions is None or encoded.ee_position is None or encoded.ee_goal is None:
                return joints
            read = rearrange(self.ee_positions(decoded.float()), "b k (arm c) -> b k arm c", arm=self.n_arms)
        now, goal = encoded.ee_position.flatten(1), encoded.ee_goal.flatten(1)  # m
        now = rearrange(
            (now - stats.ee_position_mean) / stats.ee_position_std, "b (arm xyz) -> b 1 arm xyz", arm=self.n_arms
        )
        goal = rearrange(
            (goal - stats.ee_position_mean) / stats.ee_position_std, "b (arm xyz) -> b 1 arm xyz", arm=self.n_arms
        )
        added, of_now, of_goal = read.chunk(3, dim=-1)
        return torch.cat([joints, (added + of_now * now + of_goal * goal).flatten(-2)], dim=-1)

    def losses(
        self, chunk: Tensor, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"l1"} and perhaps "ee_position": mean errors of a chunk (B, k, C) in z-scores."""
        n = self.action_dim
        losses = {"l1": masked_l1(chunk[..., :n], target[..., :n], is_pad, valid_steps)}
        if self.ee_positions is not None:
            losses["ee_position"] = masked_l1(chunk[..., n:], target[..., n:], is_pad, valid_steps)
        return losses

    def total(self, loss: Tensor, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """`losses` with "loss" before them: the generator's own, and the weighted one of the positions."""
        if "ee_position" in losses:
            loss = loss + self.ee_position_weight * losses["ee_position"]
        return {"loss": loss, **losses}

    def to_actions(self, chunk: Tensor) -> Tensor:
        """A chunk (B, k, C) → (B, k, A) in physical units, the tools brought to their positions."""
        n, stats = self.action_dim, self.normalizer
        action = chunk[..., :n] * stats.action_std + stats.action_mean
        if self.ee_positions is None:
            return action
        positions = chunk[..., n:] * stats.ee_position_std + stats.ee_position_mean
        return correct_to_ee_positions(self.robot, action, positions.unflatten(-1, (self.n_arms, 3)))


def masked_l1(prediction: Tensor, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None) -> Tensor:
    """Mean |prediction - target| over the cells that are no padding: (B, k, A), (B, k, A), (B, k) → scalar float32.

    `valid_steps` per sample are those of this batch, or given: see `Batch`. Values in the padding never count, not even
    a NaN.
    """
    total = (prediction - target).abs().masked_fill(rearrange(is_pad, "b k -> b k 1"), 0.0).sum()
    steps = (~is_pad).sum() if valid_steps is None else valid_steps * len(is_pad)
    return total / (steps * target.shape[-1]).clamp(min=1)
