"""From an observation to the numbers that all generators condition on.

    images ── backbone ── map tokens, keypoint token ──────────────────────────┐
                                   └── keyframe: each arm's next gripper event ─┤
    joint positions, (object poses), (instruction) ────────────────────────────┴── EncodedObservation

The instruction is projected once, with one sample of its noise. Keypoints, keyframes and frozen backbones are options
of ours, off by default. Several cameras get a learned embedding each; ACT's published code has none.
"""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from act.errors import ConfigError
from act.kinematics import forward_kinematics
from act.normalizer import Normalizer
from act.policies.backbones import make_backbone
from act.policies.base import Observation
from act.policies.config import FinetunedBackbone, FrozenBackbone, PolicyConfig, VisionConfig
from act.policies.transformer import Float32Linear
from act.policies.vision import CameraEncoder
from demos.hindsight import keyframe_dim, keyframe_parts
from demos.spec import EpisodeSpec

KEYFRAME_JUMP = 0.6  # standard deviations by which a keyframe changes when an arm gets another goal
KEYFRAME_WINDOW = 30  # queries that a smoothed keyframe is the mean of
NEAR = 0.01  # m from a keyframe, within which the remaining way is resolved linearly


@dataclass
class EncodedObservation:
    """What a generator conditions on."""

    vectors: dict[str, Tensor]  # "qpos" (B, J) z-scores, and perhaps "env_state" and "keyframe": a token each
    instruction: Tensor | None  # (B, d_model)
    image_tokens: Tensor  # (B, L, d_model), the last `n_keypoint_tokens` those of the keypoints
    image_position: Tensor | None  # (L, d_model)
    n_keypoint_tokens: int
    keyframe: Tensor | None = None  # (B, K) z-scores, predicted
    keyframe_target: Tensor | None = None  # (B, K) z-scores, demonstrated; in training
    ee_position: Tensor | None = None  # (B, arms, 3) m, now
    ee_goal: Tensor | None = None  # (B, arms, 3) m, at the keyframe: the demonstrated one if there is one

    @property
    def keypoint_tokens(self) -> Tensor:
        """(B, cameras · d_model) float32."""
        return self.image_tokens[:, self.image_tokens.shape[1] - self.n_keypoint_tokens :].flatten(1).float()

    @property
    def global_cond(self) -> Tensor:
        """(B, S) float32: keypoint tokens, joint positions, object poses and instruction, side by side."""
        parts = [self.keypoint_tokens] if self.n_keypoint_tokens else []
        parts += [self.vectors[name] for name in ("qpos", "env_state") if name in self.vectors]
        return torch.cat([*parts, *([] if self.instruction is None else [self.instruction])], dim=-1)


class ObservationEncoder(nn.Module):
    """See the head of this file.

    Args:
        config: the settings.
        spec: what the episodes contain: joints, cameras with sizes, length of the object poses.
        pretrained: False builds the backbone without downloading weights, for a checkpoint to fill in.

    Attributes:
        cameras: the cameras that are inputs, in order; a subset of `spec.cameras`.
        token_dims: lengths of `EncodedObservation.vectors`.
        global_cond_dim: S.

    Raises:
        ConfigError: the config needs cameras or object poses that the episodes do not have, or see `make_backbone`.
    """

    def __init__(self, config: PolicyConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__()
        cameras = () if config.vision is None else config.vision.cameras
        self.cameras = tuple(spec.cameras) if cameras is None else cameras
        vision = config.vision if self.cameras else None
        keypoints = None if vision is None else vision.keypoints
        keyframes = None if keypoints is None else keypoints.keyframes
        reads_poses = keypoints is not None and keypoints.pose_weight > 0 and spec.env_state_dim > 0
        _check_against_spec(self.cameras, config.use_env_state, spec)

        self.d_model, self.uses_env_state = config.transformer.d_model, config.use_env_state
        self.n_keypoint_tokens = 0 if keypoints is None else len(self.cameras)
        self.robot, self.n_arms, self.grippers = spec.robot, len(spec.robot.arms), list(spec.robot.grippers)
        self.has_kinematics = keyframes is not None and spec.robot.has_kinematics
        n_joints, d, language = len(spec.joint_names), self.d_model, config.language
        self.token_dims = {"qpos": n_joints} | ({"env_state": spec.env_state_dim} if config.use_env_state else {})
        dims = self.token_dims | ({"env_state": spec.env_state_dim} if reads_poses else {})
        if keyframes is not None:
            dims["keyframe"] = keyframe_dim(spec.robot)
            parts = keyframe_parts(spec.robot)  # blocks of one length, or else they are smoothed as one
            blocks = len({len(part) for part in parts}) == 1 and list(chain(*parts)) == list(range(dims["keyframe"]))
            self.n_keyframe_parts = len(parts) if blocks else 1
            if keyframes.token is not None:
                self.token_dims["keyframe"] = dims["keyframe"] + 3 * self.n_arms * self.has_kinematics
        self.normalizer = Normalizer(dims)
        tokens = self.n_keypoint_tokens + (language is not None)
        self.global_cond_dim = tokens * d + n_joints + spec.env_state_dim * config.use_env_state

        self.text_noise = 0.0 if language is None else language.text_noise
        self.text_proj = None if language is None else nn.Linear(language.text_dim, d)
        self.use_film = language is not None and language.film and keypoints is not None
        sizes = {name: spec.cameras[name] for name in self.cameras}
        self.vision = None if vision is None else _camera_encoder(vision, sizes, d, self.use_film, pretrained)
        self.keyframe_head = self.pose_head = None
        if keyframes is not None:
            inputs = tokens * d + len(self.grippers)
            self.keyframe_head = nn.Sequential(nn.Linear(inputs, d), nn.ReLU(), nn.Linear(d, dims["keyframe"]))
        if reads_poses:
            self.pose_head = Float32Linear(self.n_keypoint_tokens * d, spec.env_state_dim)

    def forward(
        self, observation: Observation, state: dict[str, Tensor] | None = None, keyframe: Tensor | None = None
    ) -> EncodedObservation:
        """The observation, encoded.

        Args:
            state: of these episodes between two queries, see `Policy.predict`.
            keyframe: (B, K) physical units, demonstrated; in training.

        Raises:
            ConfigError: the observation lacks an input.
        """
        stats, instruction = self.normalizer, self.encode_instruction(observation)
        vectors = {"qpos": (observation.qpos - stats.qpos_mean) / stats.qpos_std}
        if self.uses_env_state:
            vectors["env_state"] = self.normalize_env_state(observation)
        if self.vision is None:
            none = observation.qpos.new_zeros(len(observation.qpos), 0, self.d_model)
            return EncodedObservation(vectors, instruction, none, None, 0)
        query = None
        if state is not None:
            query = state.get("query", torch.zeros((), dtype=torch.int64, device=observation.qpos.device))
            state["query"] = query + 1
        grippers = [
            vectors["qpos"][:, i : i + 1] for i in self.grippers
        ]  # a list as an index would be copied to the GPU
        ee_position = forward_kinematics(self.robot, observation.qpos) if self.has_kinematics else None
        film = instruction if self.use_film else None
        position = self.vision.token_positions()
        tokens = self.vision(observation.images, observation.features, query, film)
        encoded = EncodedObservation(vectors, instruction, tokens, position, self.n_keypoint_tokens)
        if self.keyframe_head is None:
            return encoded

        # Joint positions are not an input of the keyframe: in demonstrations they correlate with the goal, and the head
        # would use them instead of the image. The grippers tell whether a hand at an object still has to grasp it.
        keypoints = tokens[:, tokens.shape[1] - self.n_keypoint_tokens :].flatten(1).float()
        inputs = [keypoints, *grippers, *([] if instruction is None else [instruction])]
        with torch.autocast(tokens.device.type, enabled=False):
            predicted = self.keyframe_head(torch.cat(inputs, dim=-1))
        if state is not None:
            predicted = smooth_keyframes(predicted, state, self.n_keyframe_parts)
        target = None if keyframe is None else (keyframe - stats.keyframe_mean) / stats.keyframe_std
        encoded.keyframe, encoded.keyframe_target, vectors["keyframe"] = predicted, target, predicted
        if ee_position is not None:
            # A gripper closes where its tool has arrived, so the way that remains is an input with 1 mm resolution.
            goal = predicted.detach() * stats.keyframe_std + stats.keyframe_mean
            way = goal.unflatten(-1, (self.n_arms, -1))[..., :3] - ee_position
            vectors["keyframe"] = torch.cat([predicted, torch.asinh(way / NEAR).flatten(-2)], dim=-1)
            goal = (predicted if target is None else target) * stats.keyframe_std + stats.keyframe_mean
            encoded.ee_position, encoded.ee_goal = ee_position, goal.unflatten(-1, (self.n_arms, -1))[..., :3]
        return encoded

    def encode_instruction(self, observation: Observation) -> Tensor | None:
        """(B, d_model) float32, with noise in training; None: the policy takes none."""
        if self.text_proj is None:
            return None
        if observation.instruction is None:
            raise ConfigError("this policy needs an instruction (--text-encoder); observation.instruction is None")
        vector = observation.instruction
        if self.training and self.text_noise:
            vector = vector + self.text_noise * torch.randn_like(vector)
        with torch.autocast(vector.device.type, enabled=False):
            return self.text_proj(vector.float())

    def normalize_env_state(self, observation: Observation) -> Tensor:
        """Object poses as z-scores, (B, E)."""
        if observation.env_state is None:
            raise ConfigError("this policy needs object poses; observation.env_state is None")
        return (observation.env_state - self.normalizer.env_state_mean) / self.normalizer.env_state_std

    @torch.no_grad()
    def find_keypoints(self, observation: Observation) -> dict[str, Tensor]:
        """camera → (B, K, 2) coordinates x, y from -1 to 1 across the frame; {} without keypoints."""
        if self.vision is None:
            return {}
        film = self.encode_instruction(observation) if self.use_film else None
        return self.vision.find_keypoints(observation.images, film)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters with the learning rate of the backbone: those of FiLM are not among them."""
        parts = [] if self.vision is None else [self.vision.backbones, self.vision.merged, self.vision.keypoints]
        parts += [] if self.keyframe_head is None else [self.keyframe_head]
        return [p for part in parts for name, p in part.named_parameters() if "film" not in name]


def smooth_keyframes(keyframe: Tensor, state: dict[str, Tensor], n_parts: int) -> Tensor:
    """A running mean of the keyframes while each arm has the same goal, (B, K) z-scores in and out.

    A hand occludes what it is about to grasp, so earlier predictions are better than the present one. Each of `n_parts`
    equal parts belongs to an arm; where it jumps, the arm has another goal and its mean begins anew.
    """
    arms = keyframe.unflatten(-1, (n_parts, -1))  # (B, arms, ·)
    mean, count = state.get("keyframe", arms), state.get("count", torch.zeros_like(arms[..., :1]))
    same = (arms - mean).abs().amax(dim=-1, keepdim=True) < KEYFRAME_JUMP
    count = torch.where(same, count + 1, 1)
    mean = torch.where(same, mean + (arms - mean) / count.clamp(max=KEYFRAME_WINDOW), arms)
    state |= {"keyframe": mean, "count": count}
    return mean.flatten(1)


def _camera_encoder(
    config: VisionConfig, sizes: dict[str, tuple[int, int]], d_model: int, use_film: bool, pretrained: bool
) -> CameraEncoder:
    backbone, keypoints = config.backbone, config.keypoints
    frozen = isinstance(backbone, FrozenBackbone)
    fine, coarse = config.fine_stride, config.backbone_stride
    between = [fine * 2**i for i in range(1, 6) if fine * 2**i < coarse] if frozen else []
    backbones = [
        make_backbone(
            backbone.name,
            backbone.weights,
            strides=sorted({fine, *between, coarse}),
            width=backbone.width,
            pretrained=pretrained,
            frozen=frozen,
        )
        for _ in range(1 if config.shared_backbone else len(sizes))
    ]
    return CameraEncoder(
        sizes,
        d_model,
        backbones,
        frozen_norm=frozen or isinstance(backbone, FinetunedBackbone),
        keypoints=0 if keypoints is None else keypoints.count,
        frozen=frozen,
        map_tokens=config.map_tokens,
        shift=backbone.frame_shift,
        condition=d_model if use_film else 0,
    )


def _check_against_spec(cameras: tuple[str, ...], use_env_state: bool, spec: EpisodeSpec) -> None:
    if unknown := [name for name in cameras if name not in spec.cameras]:
        known = ", ".join(spec.cameras) or "none"
        raise ConfigError(f"the episodes have no camera {unknown[0]}; they have: {known}")
    if use_env_state and not spec.env_state_dim:
        raise ConfigError("--use-env-state needs object poses (env_state), and the episodes have none")
    if not cameras and not use_env_state:
        raise ConfigError("the episodes have no cameras: use --use-env-state to learn from object poses")
