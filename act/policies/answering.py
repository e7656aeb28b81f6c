"""What a policy answers: a chunk of actions, and where the tools are meanwhile; the same for all ways of generating.

A chunk x is (B, k, C): each action's joints as z-scores and, where places are told (`place_weight`), those of both
tools, 6 more numbers. Whatever generates it, the joints are then corrected to bring the tools there (`act.reach`).
A family of policies is what turns what is seen into such a chunk: `forward`, how it learns, and `_generate`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from act.normalizer import Normalizer
from act.policies.base import Batch, Observation
from act.policies.config import AnsweringConfig
from act.policies.seeing import SeeingPolicy, transformer_shape
from act.policies.transformer import Decoder, Float32Linear
from act.reach import reach, tools
from demos import kinematics
from demos.spec import EpisodeSpec


@dataclass
class Seen:
    """What a policy makes of an observation."""

    memory: Tensor  # (B, L, d_model), what a decoder asks
    position: Tensor  # (L, d_model), the positions in it
    qpos: Tensor  # (B, J), as it was observed
    image_tokens: Tensor  # (B, l, d_model)
    keyframe: Tensor | None  # (B, K) z-scores, where each arm is going, as the policy tells it


class AnsweringPolicy(SeeingPolicy):
    """A policy that sees as `SeeingPolicy` does and answers with a chunk; see the head of this file.

    A subclass calls `_make_decoder` in its constructor if it decodes chunks from the memory (`_decode`).
    """

    config: AnsweringConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    place_head: Float32Linear | None

    def __init__(self, config: AnsweringConfig, spec: EpisodeSpec, *, pretrained: bool = True, vectors: int = 0):
        super().__init__(config, spec, pretrained=pretrained, vectors=vectors)
        self.tells_places = self.tells_keyframes and config.place_weight > 0 and kinematics.knows(spec.joint_names)
        if self.tells_places:
            self.normalizer = Normalizer(self.normalizer.dims | {"place": 6})
        self.chunk_dim = len(spec.joint_names) + 6 * self.tells_places  # C

    def _make_decoder(self, more: int = 0) -> None:
        """What decodes k tokens from the memory, and `more`, and reads a chunk off the k, see `_told`."""
        d = self.config.d_model
        self.query = nn.Parameter(torch.randn(self.chunk_size + more, d))
        self.decoder = Decoder(self.config.n_decoder_layers, *transformer_shape(self.config))
        self.action_head = Float32Linear(d, len(self.spec.joint_names))
        self.place_head = Float32Linear(d, 18) if self.tells_places else None

    @abstractmethod
    def _generate(self, observation: Observation, chance: Tensor | None, memory: dict[str, Tensor] | None) -> Tensor:
        """A chunk (B, k, C), drawn with (B, noise_dim) standard normal numbers, or the mean or most likely one."""

    @torch.no_grad()
    def predict(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The next k actions, (B, k, A), in physical units. Remembered is where each arm is going (`remembered`)."""
        return self._as_actions(self._generate(observation, chance, memory))

    def _look(self, observation: Observation, memory: dict[str, Tensor] | None = None) -> Seen:
        image_tokens = self._see(observation, memory)
        keyframe = self._tell_keyframe(observation, image_tokens, memory)
        return self._with(observation, image_tokens, keyframe)

    def _with(
        self, observation: Observation, image_tokens: Tensor, keyframe: Tensor | None, before: Sequence[Tensor] = ()
    ) -> Seen:
        """What is seen, with the policy's own tokens before it, as many as it announced."""
        memory, position = self._remember(observation, image_tokens, keyframe, before)
        return Seen(memory, position, observation.qpos, image_tokens, keyframe)

    @property
    def summary_dim(self) -> int:
        """S, see `_summary`."""
        tokens = len(self.cameras) * bool(self.config.keypoints) + bool(self.config.text_encoder)
        seen = tokens * self.config.d_model
        return seen + len(self.spec.joint_names) + self.spec.env_state_dim * self.uses_env_state

    def _summary(self, observation: Observation, image_tokens: Tensor) -> Tensor:
        """What is seen as numbers, (B, S) float32: tokens of keypoints and instruction, joints, object poses."""
        seen = [self._points(image_tokens)] if self.config.keypoints else []
        seen.append(self.normalizer.normalize("qpos", observation.qpos))
        if self.uses_env_state:
            seen.append(self._env_state(observation))
        return torch.cat([*seen, *self._instruction(observation)], dim=-1)

    def _target(self, batch: Batch) -> Tensor:
        """The demonstrated chunk, (B, k, C); after an episode's end its last action repeats."""
        chunk = self.normalizer.normalize("action", batch.action)
        if not self.tells_places:
            return chunk
        places = self.normalizer.normalize("place", tools(batch.action).flatten(-2))
        return torch.cat([chunk, places], dim=-1)

    def _decode(self, seen: Seen, keyframe: Tensor | None, begin: Tensor | None = None) -> Tensor:
        """A chunk (B, k, C) from what is seen, places measured from a keyframe; `begin`: see `Decoder`."""
        return self._told(self.decoder(self.query, seen.memory, seen.position, begin), seen.qpos, keyframe)

    def _told(self, decoded: Tensor, qpos: Tensor, keyframe: Tensor | None) -> Tensor:
        """A chunk (B, k, C) read off decoded tokens (B, k, d_model)."""
        action = self.action_head(decoded)
        if self.place_head is None or keyframe is None:
            return action
        return torch.cat([action, self._places(decoded, qpos, keyframe)], dim=-1)

    def _places(self, decoded: Tensor, qpos: Tensor, keyframe: Tensor) -> Tensor:
        """Where the tools are at each action, (B, k, 6) z-scores, from what is decoded, joints and keyframe (B, 8).

        In each direction an arm's place is a share of where it is now, a share of its keyframe, and what the network
        adds to them. A way from here to there, a grasp and a place in the world are then the same few numbers wherever
        the object lies and the hand comes from.
        """
        assert self.place_head is not None
        places = (tools(qpos), self._goal(keyframe))
        places = (self.normalizer.normalize("place", place.flatten(1)) for place in places)
        now, goal = (rearrange(place, "b (arm xyz) -> b 1 arm xyz", arm=2) for place in places)
        told = rearrange(self.place_head(decoded), "b k (arm c) -> b k arm c", arm=2)
        added, of_now, of_goal = told.chunk(3, dim=-1)
        return (added + of_now * now + of_goal * goal).flatten(-2)

    def _goal_in(self, batch: Batch, seen: Seen) -> Tensor | None:
        """The keyframe from which places are measured: in training the true one."""
        return self._true_keyframe(batch) if self.tells_places else seen.keyframe

    def _as_actions(self, chunk: Tensor) -> Tensor:
        """A chunk (B, k, C) → (B, k, A) in physical units, the tools brought to their places."""
        n = len(self.spec.joint_names)
        action = self.normalizer.unnormalize("action", chunk[..., :n])
        if not self.tells_places:
            return action
        places = self.normalizer.unnormalize("place", chunk[..., n:])
        return reach(action, places.unflatten(-1, (2, 3)))

    def _chunk_l1(self, told: Tensor, target: Tensor, batch: Batch) -> dict[str, Tensor]:
        """{"l1", "place"}: mean errors of a chunk (B, k, C) in z-scores, places if they are told."""
        n = len(self.spec.joint_names)
        losses = {"l1": masked_l1(told[..., :n], target[..., :n], batch.is_pad, batch.valid_steps)}
        if self.tells_places:
            losses["place"] = masked_l1(told[..., n:], target[..., n:], batch.is_pad, batch.valid_steps)
        return losses

    def _total(self, losses: dict[str, Tensor], own: Tensor) -> dict[str, Tensor]:
        """`losses` with "loss" before them: the family's own, and what `<name>_weight` in the config weighs."""
        weights = {name: getattr(self.config, f"{name}_weight") for name in ("pose", "keyframe", "place")}
        weighed = [weights[name] * loss for name, loss in losses.items() if name in weights]
        return {"loss": sum(weighed, start=own), **losses}


def masked_l1(prediction: Tensor, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None) -> Tensor:
    """Mean |prediction - target| over the cells that are no padding: (B, k, A), (B, k, A), (B, k) → scalar float32.

    `valid_steps` per sample are those of this batch, or given: see `Batch`. What stands in the padding never counts,
    not even a NaN.
    """
    total = (prediction - target).abs().masked_fill(rearrange(is_pad, "b k -> b k 1"), 0.0).sum()
    steps = (~is_pad).sum() if valid_steps is None else valid_steps * len(is_pad)
    return total / (steps * target.shape[-1]).clamp(min=1)
