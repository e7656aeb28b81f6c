"""What a policy sees: cameras, joints and object poses become tokens, the same for every way of generating a chunk.

    pictures ── backbone ── map tokens, keypoints' token ─────────────────────────┐
                                    └── keyframe: where each arm is going ── token ┤
    joints, (object poses), (instruction) ── a token each ────────────────────────┴── encoder ──► memory (B, L, d_model)

Keypoints and keyframes are options of ours, off by default, as are the auxiliary losses that teach keypoints object
poses or keyframes (`act.keyframes`), a backbone that is never trained, and noise on the joint positions. Several
cameras get a learned embedding each; ACT's published code tells them apart by their contents alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from act.errors import ConfigError
from act.keyframes import arms_of, keyframe_dim
from act.language import InstructionEncoder
from act.normalizer import Normalizer
from act.policies.backbones import make_backbone
from act.policies.base import Batch, Observation, Policy
from act.policies.config import SeeingConfig
from act.policies.transformer import Encoder, Float32Linear
from act.policies.vision import CameraEncoder
from act.reach import tools
from demos import kinematics
from demos.spec import EpisodeSpec

ELSEWHERE = 0.6  # standard deviations by which a keyframe changes when an arm goes somewhere else
NEAR = 0.01  # m from a keyframe, within which differences of the way that is left are told in full
LOOKS = 30  # that a remembered keyframe is the mean of


class SeeingPolicy(Policy):
    """What policies have in common that see through keypoints, image tokens and a transformer; its memory is theirs.

    Args:
        config: the settings.
        spec: what the episodes contain: joints, cameras with sizes, length of the object poses.
        pretrained: False builds the backbone without downloading weights, for a checkpoint to fill in.
        vectors: how many more tokens the policy puts before those of the observation (`_remember`).

    Raises:
        ConfigError: the config asks for cameras or object poses that the episodes do not have, or see `make_backbone`.
    """

    config: SeeingConfig

    def __init__(self, config: SeeingConfig, spec: EpisodeSpec, *, pretrained: bool = True, vectors: int = 0):
        super().__init__()
        self.config, self.spec, self.chunk_size = config, spec, config.chunk_size
        self.cameras = tuple(spec.cameras) if config.cameras is None else config.cameras
        self.uses_env_state = config.use_env_state
        self.listens_for_keypoints = bool(config.film and config.text_encoder and config.keypoints)
        self._check_against_spec()

        n_joints, d = len(spec.joint_names), config.d_model
        reads_poses = bool(config.pose_weight and self.cameras and spec.env_state_dim)
        self.tells_keyframes = bool(config.keyframe_weight and self.cameras)
        dims = {"qpos": n_joints, "action": n_joints}
        if config.use_env_state or reads_poses:
            dims["env_state"] = spec.env_state_dim
        if self.tells_keyframes:
            dims["keyframe"] = keyframe_dim(spec.joint_names)
        if config.text_encoder:
            self.instruction_encoder = InstructionEncoder(config.text_encoder, config.text_dim)
        self.normalizer = Normalizer(dims)

        self.qpos_proj = Float32Linear(n_joints, d)
        self.env_state_proj = Float32Linear(spec.env_state_dim, d) if config.use_env_state else None
        self.vision = self._make_vision(pretrained) if self.cameras else None
        if self.tells_keyframes:
            self.grippers = [gripper for _, gripper in arms_of(spec.joint_names)]
            seen = (len(self.cameras) + bool(config.text_encoder)) * d + len(self.grippers)
            self.keyframe_head = two_layers(seen, d, dims["keyframe"])
            self.knows_tools = kinematics.knows(spec.joint_names)
        self.keyframe_proj = None
        if self.tells_keyframes and config.keyframe_token:
            self.keyframe_proj = Float32Linear(dims["keyframe"] + 6 * self.knows_tools, d)
        self.text_proj = Float32Linear(config.text_dim, d) if config.text_encoder else None
        vectors += 1 + config.use_env_state + (self.keyframe_proj is not None) + (self.text_proj is not None)
        self.vector_position = nn.Parameter(torch.randn(vectors, d))
        self.pose_head = Float32Linear(len(self.cameras) * d, spec.env_state_dim) if reads_poses else None
        self.encoder = Encoder(config.n_encoder_layers, *transformer_shape(config))

    @torch.no_grad()
    def encode_frames(self, camera: str, frames: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        if self.vision is None or not self.vision.frozen:
            return None
        shifts = None if generator is None else self.vision.draw_shifts(len(frames), generator).to(frames.device)
        return self.vision.encode(camera, frames, shifts)

    @torch.no_grad()
    def keypoints(self, observation: Observation) -> dict[str, Tensor]:
        return {} if self.vision is None else self.vision.find_keypoints(observation.images, self._film(observation))

    def parameter_groups(self, lr: float) -> list[dict]:
        parts = ("backbones", "merged", "keypoints")
        modules = [] if self.vision is None else [getattr(self.vision, name) for name in parts]
        modules += [self.keyframe_head] if self.tells_keyframes else []
        named = [each for module in modules for each in module.named_parameters()]
        backbone = [p for name, p in named if "film" not in name]  # words are listened to at the rate of the rest
        ours = {id(p) for p in backbone}
        groups = [
            {"params": [p for p in self.parameters() if id(p) not in ours], "lr": lr},
            {"params": backbone, "lr": lr if self.config.backbone_lr is None else self.config.backbone_lr},
        ]
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        return [group for group in groups if group["params"]]

    def _see(self, observation: Observation, memory: dict[str, Tensor] | None = None) -> Tensor:
        """Image tokens (B, L, d_model), the keypoints' last; L = 0 for a policy without cameras."""
        if self.vision is None:
            return observation.qpos.new_zeros(len(observation.qpos), 0, self.config.d_model)
        look = None
        if memory is not None:
            look = memory.get("look", torch.zeros((), dtype=torch.int64, device=observation.qpos.device))
            memory["look"] = look + 1
        return self.vision(observation.images, observation.features, look, self._film(observation))

    def _film(self, observation: Observation) -> Tensor | None:
        """What decides what keypoints look for, (B, d_model); None: they always look for the same."""
        return self._instruction(observation)[0] if self.listens_for_keypoints else None

    def _points(self, image_tokens: Tensor) -> Tensor:
        """The keypoints' tokens, (B, cameras · d_model) float32."""
        first = image_tokens.shape[1] - len(self.cameras)
        return rearrange(image_tokens[:, first:], "b n d -> b (n d)").float()

    def _tell_keyframe(
        self, observation: Observation, image_tokens: Tensor, memory: dict[str, Tensor] | None = None
    ) -> Tensor | None:
        """Where each arm is going, (B, K) as z-scores, told from keypoints, grippers, instruction, and remembered.

        The grippers tell whether a hand at an object still has to grasp it. Other joints are not asked: on its way the
        arm gives away where it is going, and would be believed instead of looked past.
        """
        if not self.tells_keyframes:
            return None
        joints = self.normalizer.normalize("qpos", observation.qpos)
        grippers = [joints[:, i : i + 1] for i in self.grippers]  # a list as an index would be carried to the GPU
        told = torch.cat([self._points(image_tokens), *grippers, *self._instruction(observation)], dim=-1)
        told = self.keyframe_head(told)
        return told if memory is None else remembered(told, memory)

    def _auxiliary_losses(self, batch: Batch, image_tokens: Tensor, keyframe: Tensor | None) -> dict[str, Tensor]:
        """{"pose", "keyframe"}, those that there are: mean errors in z-scores."""
        losses = {}
        if self.pose_head is not None:
            poses = self.pose_head(self._points(image_tokens))
            losses["pose"] = F.l1_loss(poses, self._env_state(batch.observation))
        if keyframe is not None:
            losses["keyframe"] = F.l1_loss(keyframe, self._true_keyframe(batch))
        return losses

    def _true_keyframe(self, batch: Batch) -> Tensor:
        """(B, K) as z-scores."""
        if batch.keyframe is None:
            raise ConfigError("the policy learns keyframes, given a batch without; use --keyframe-weight 0")
        return self.normalizer.normalize("keyframe", batch.keyframe)

    def _env_state(self, observation: Observation) -> Tensor:
        """Object poses as z-scores, (B, E)."""
        if observation.env_state is None:
            raise ConfigError("the policy looks at object poses (env_state), given none")
        return self.normalizer.normalize("env_state", observation.env_state)

    def _instruction(self, observation: Observation) -> list[Tensor]:
        """What is told to do as a token, [(B, d_model) float32]; [] for a policy that is told nothing.

        Whatever listens is given this token. Hundreds of numbers themselves, at the learning rate of what tells
        keyframes, shake it so much that it never becomes exact.
        """
        if self.text_proj is None:
            return []
        if observation.instruction is None:
            raise ConfigError("the policy is told what to do in words (--text-encoder), and was told nothing")
        words = observation.instruction
        if self.training and self.config.text_noise:
            words = words + self.config.text_noise * torch.randn_like(words)
        return [self.text_proj(words)]

    def _remember(
        self, observation: Observation, image_tokens: Tensor, keyframe: Tensor | None, before: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """What is seen, encoded: the memory (B, L, d_model) that a decoder asks, and the positions (L, d_model) in it.

        Args:
            before: the policy's own tokens (B, d_model), as many as it announced.
        """
        qpos = self.normalizer.normalize("qpos", observation.qpos)
        if self.training and self.config.qpos_noise:
            qpos = qpos + self.config.qpos_noise * torch.randn_like(qpos)
        vectors = [*before, self.qpos_proj(qpos)]
        if self.env_state_proj is not None:
            vectors.append(self.env_state_proj(self._env_state(observation)))
        if keyframe is not None and self.keyframe_proj is not None:
            vectors.append(self.keyframe_proj(self._with_way_left(observation, keyframe)))
        vectors += self._instruction(observation)
        tokens, position = torch.cat([torch.stack(vectors, dim=1), image_tokens], dim=1), self.vector_position
        if self.vision is not None:
            position = torch.cat([position, self.vision.token_positions()])
        return self.encoder(tokens, position), position

    def _with_way_left(self, observation: Observation, keyframe: Tensor) -> Tensor:
        """A keyframe (B, K) in z-scores, and what is left of each tool's way to it, (B, 6): fine near by, coarse afar.

        A gripper closes where its tool has arrived, and to the millimetre no small network finds that out from joints.
        """
        if not self.knows_tools:
            return keyframe
        left = self._goal(keyframe.detach()) - tools(observation.qpos)
        return torch.cat([keyframe, torch.asinh(left / NEAR).flatten(-2)], dim=-1)

    def _goal(self, keyframe: Tensor) -> Tensor:
        """Where each tool is going, (B, 2, 3) m, of a keyframe (B, 8) in z-scores."""
        return self.normalizer.unnormalize("keyframe", keyframe).unflatten(-1, (2, 4))[..., :3]

    def _make_vision(self, pretrained: bool) -> CameraEncoder:
        config = self.config
        sizes = {name: self.spec.cameras[name] for name in self.cameras}
        coarse, fine = config.backbone_stride, config.keypoint_stride or config.backbone_stride
        between = [fine * 2**i for i in range(1, 6) if fine * 2**i < coarse] if config.backbone_frozen else []
        backbones = [
            make_backbone(
                config.backbone,
                config.backbone_weights,
                strides=sorted({fine, *between, coarse}),
                width=config.backbone_width,
                pretrained=pretrained,
                frozen=config.backbone_frozen,
            )
            for _ in range(1 if config.shared_backbone else len(sizes))
        ]
        frozen = config.backbone_weights == "imagenet"
        return CameraEncoder(
            sizes,
            config.d_model,
            backbones,
            frozen,
            keypoints=config.keypoints,
            frozen=config.backbone_frozen,
            map_tokens=config.map_tokens,
            shift=config.frame_shift,
            told=config.d_model if self.listens_for_keypoints else 0,
        )

    def _check_against_spec(self) -> None:
        if unknown := [name for name in self.cameras if name not in self.spec.cameras]:
            known = ", ".join(self.spec.cameras) or "none"
            raise ConfigError(f"the episodes have no camera {unknown[0]}; they have: {known}")
        if self.uses_env_state and not self.spec.env_state_dim:
            raise ConfigError("--use-env-state needs object poses (env_state), and the episodes have none")
        if not self.cameras and not self.uses_env_state:
            raise ConfigError("the episodes have no cameras: use --use-env-state to learn from object poses")


def transformer_shape(config: SeeingConfig) -> tuple[int, int, int, float, bool]:
    """What all transformers of a policy have in common, see `Encoder`."""
    return config.d_model, config.n_heads, config.ffn_dim, config.dropout, config.pre_norm


def remembered(keyframe: Tensor, memory: dict[str, Tensor]) -> Tensor:
    """A running mean of the keyframes told while each arm is going to the same place, (B, K) z-scores in and out.

    A hand hides what it is about to grasp, so what was told before says more than what is told now. Half of the numbers
    are each arm's; where they have changed too much, the arm is going somewhere else, and its mean begins anew.
    """
    arms = keyframe.unflatten(-1, (2, -1)) if keyframe.shape[-1] % 2 == 0 else keyframe[:, None]  # (B, arms, ·)
    mean, count = memory.get("keyframe", arms), memory.get("count", torch.zeros_like(arms[..., :1]))
    same = (arms - mean).abs().amax(dim=-1, keepdim=True) < ELSEWHERE
    count = torch.where(same, count + 1, 1)
    mean = torch.where(same, mean + (arms - mean) / count.clamp(max=LOOKS), arms)
    memory |= {"keyframe": mean, "count": count}
    return mean.flatten(1)


def two_layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A small network from and to numbers at the precision of the robot."""
    return nn.Sequential(Float32Linear(inputs, width), nn.ReLU(), Float32Linear(width, outputs))
