"""The policy: an observation encoder, an action head and a generator, put together.

    Observation ──► ObservationEncoder ──► EncodedObservation ──┐
                                                                ├──► Generator ──► chunk ──► ActionHead ──► actions
    actions ──► ActionHead ──► chunk (in training) ─────────────┘         ▲
                                                                   noise ─┘

    observation.py   camera frames, joints, object poses, instruction → tokens, keyframe
    actions.py       actions ↔ chunk, end-effector positions, IK
    transformer.py   tokens → memory → decoded queries, shared by all generators
    generators/      cvae (ACT), regression, autoencoder, gan, autoregressive, flow, flow_matching, diffusion: each has
                     `loss(encoded, target, is_pad) → dict` and `sample(encoded, noise) → chunk`

With the defaults this is ACT as published; generators/cvae.py lists the differences from its code. A new generator is
one file, one config dataclass and one line of the table in generators/config.py.

Tensors come in and go out in the units of the file (`act.policies.base`); everything in between is in z-scores.
"""

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act.errors import ConfigError
from act.language import InstructionEncoder
from act.policies.actions import ActionHead
from act.policies.base import Batch, Observation
from act.policies.config import config_of
from act.policies.generators.config import GENERATORS
from act.policies.generators.generator import Generator
from act.policies.observation import ObservationEncoder
from act.policies.settings import PolicySettings
from demos.spec import EpisodeSpec


class Policy(nn.Module):
    """See the head of this file.

    Args:
        settings: see `PolicySettings`.
        spec: what the training episodes contain (joints, cameras with sizes, fps).
        pretrained: False builds the backbone without downloading weights, for a checkpoint to fill in.

    Attributes:
        chunk_size: k, the number of actions predicted at once.
        cameras: the cameras that are inputs, in order; a subset of `spec.cameras`; empty: it needs no images.
        uses_env_state: object poses are an input.
        instruction_encoder: text → vectors; None: the policy takes no instructions.
        demonstrated_steps: length of the longest demonstration without its pauses, in steps; 0: not known.

    Raises:
        ConfigError: the settings do not fit the episodes, or pretrained weights cannot be had.
    """

    def __init__(self, settings: PolicySettings, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__()
        config = config_of(settings)
        self.settings, self.spec, self.chunk_size = settings, spec, config.chunk_size
        self.encoder = ObservationEncoder(config, spec, pretrained=pretrained)
        self.head = ActionHead(config, spec, self.encoder)
        module, _, name = GENERATORS[settings.policy][1].partition(":")
        generator = getattr(importlib.import_module(f"act.policies.generators.{module}"), name)
        self.generator: Generator = generator(config.generator, config, self.encoder, self.head)
        self.cameras, self.uses_env_state = self.encoder.cameras, config.use_env_state
        language, vision = config.language, config.vision
        self.instruction_encoder = language and InstructionEncoder(language.text_encoder, language.text_dim)
        self.demonstrated_steps = 0
        keypoints = None if vision is None else vision.keypoints
        self._pose_weight = 0.0 if keypoints is None else keypoints.pose_weight
        self._keyframe_weight = (
            0.0 if keypoints is None or keypoints.keyframes is None else (keypoints.keyframes.keyframe_weight)
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Training losses, all scalars: "loss", which is to be minimised, and its parts, mean errors in z-scores.

        loss = the generator's (with ee_position_weight · ee_position) + pose_weight · pose + keyframe_weight · keyframe
        """
        if self.encoder.keyframe_head is not None and batch.keyframe is None:
            raise ConfigError("this policy learns keyframes; batch.keyframe is None; use --keyframe-weight 0")
        target = self.head.target(batch.action)
        encoded = self.encoder(batch.observation, keyframe=batch.keyframe)
        losses = self.generator.loss(encoded, target, batch.is_pad, batch.valid_steps)
        if self.encoder.pose_head is not None:
            poses = self.encoder.pose_head(encoded.keypoint_tokens)
            losses["pose"] = F.l1_loss(poses, self.encoder.normalize_env_state(batch.observation))
            losses["loss"] = losses["loss"] + self._pose_weight * losses["pose"]
        if encoded.keyframe is not None and encoded.keyframe_target is not None:
            losses["keyframe"] = F.l1_loss(encoded.keyframe, encoded.keyframe_target)
            losses["loss"] = losses["loss"] + self._keyframe_weight * losses["keyframe"]
        return losses

    @torch.no_grad()
    def predict(
        self, observation: Observation, noise: Tensor | None = None, state: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The next k actions, (B, k, A), in physical units. Deterministic in evaluation mode.

        Args:
            noise: (B, noise_dim) standard normal numbers that decide between several chunks; None: the mean or most
                likely one.
            state: what the policy keeps between two queries of the same episodes (its smoothed keyframes); empty at
                their beginning, changed by every call. None: nothing is kept.
        """
        encoded = self.encoder(observation, state)
        return self.head.to_actions(self.generator.sample(encoded, noise))

    @property
    def noise_dim(self) -> int:
        """How many random numbers decide between several chunks; 0: there is only one."""
        return self.generator.noise_dim

    @property
    def has_latent(self) -> bool:
        """`latent` and `decode` turn chunks into latents and back."""
        return self.generator.has_latent

    @property
    def predicts_ee_positions(self) -> bool:
        """Chunks contain end-effector positions."""
        return self.head.ee_position_weight > 0

    @property
    def horizon(self) -> int:
        """Steps of a rollout: 1.2 times the longest demonstration, at least 8 seconds."""
        return max(self.spec.robot.steps(8.0), round(1.2 * self.demonstrated_steps))

    def fit_normalizer(self, stats: dict[str, Any]) -> None:
        """Takes (mean, std) of every normalised vector, see `Normalizer.fit`; from the training split, once."""
        for part in (self.encoder, self.head):
            part.normalizer.fit(stats)

    @torch.no_grad()
    def encode_frames(self, camera: str, frames: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Features of a frozen backbone: (B, H, W, 3) uint8 → (B, F) float16; None: the backbone is trained.

        They may be computed once for all frames and given as `Observation.features`.

        Args:
            generator: random numbers of the frames' shifts (training); None: frames as they are.
        """
        vision = self.encoder.vision
        if vision is None or not vision.frozen:
            return None
        shifts = None if generator is None else vision.draw_shifts(len(frames), generator).to(frames.device)
        return vision.encode(camera, frames, shifts)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Tensor | None:
        """Of each demonstrated chunk, (B,) nats, if the generator knows it exactly; else None."""
        encoded = self.encoder(batch.observation, keyframe=batch.keyframe)
        return self.generator.log_likelihood(encoded, self.head.target(batch.action))

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """Numbers for plots that are no losses (such as the KL of each dimension of z), by name."""
        return self.generator.diagnostics(self.encoder(batch.observation), self.head.target(batch.action), batch.is_pad)

    @torch.no_grad()
    def latent(self, batch: Batch) -> Tensor | None:
        """The latent of each demonstrated chunk, (B, latent_dim); None without one. It needs no images."""
        if not self.has_latent:
            return None
        stats, observation = self.encoder.normalizer, batch.observation
        qpos = (observation.qpos - stats.qpos_mean) / stats.qpos_std
        instruction = self.encoder.encode_instruction(observation)
        return self.generator.latent(qpos, instruction, self.head.target(batch.action), batch.is_pad)

    @torch.no_grad()
    def decode(self, observation: Observation, latent: Tensor) -> Tensor | None:
        """The next k actions for a latent, (B, k, A), in physical units; None without one."""
        chunk = self.generator.decode(self.encoder(observation), latent) if self.has_latent else None
        return None if chunk is None else self.head.to_actions(chunk)

    @torch.no_grad()
    def attention(self, observation: Observation) -> dict[str, Tensor]:
        """camera → (B, h, w): the share of attention of the decoder's last layer on each part of a frame, mean over
        actions and heads; other tokens take the rest. {} without map tokens.
        """
        vision, transformer = self.encoder.vision, self.generator.transformer
        if vision is None:
            return {}
        cross: Any = transformer.decoder.layers[-1].cross_attention
        inputs: list[tuple[Tensor, ...]] = []
        hook = cross.register_forward_pre_hook(lambda _, given: inputs.append(given))
        try:
            self.predict(observation)
        finally:
            hook.remove()
        query, key, _ = inputs[0]
        shares = cross.weights(query, key).mean(dim=(1, 2))  # (B, tokens)
        return vision.as_maps(shares[:, transformer.n_vectors :])

    def keypoints(self, observation: Observation) -> dict[str, Tensor]:
        """camera → (B, K, 2) coordinates x, y of the keypoints, from -1 to 1 across the frame; {} without."""
        return self.encoder.find_keypoints(observation)

    def parameter_groups(self, lr: float) -> list[dict]:
        """Parameter groups for the optimiser: the rest, the backbone with its keypoints, and the generator's own."""
        backbone = self.encoder.backbone_parameters()
        own, vision = {id(p) for p in backbone}, config_of(self.settings).vision
        backbone_lr = None if vision is None else vision.backbone_lr
        groups = [
            {"params": [p for p in self.parameters() if id(p) not in own], "lr": lr},
            {"params": backbone, "lr": lr if backbone_lr is None else backbone_lr},
        ]
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        return self.generator.parameter_groups([group for group in groups if group["params"]])
