"""The settings of a policy as a person writes and a file stores them: one flat list, checked when it is built.

Every field is a flag of scripts/train.py, and its docstring the help. `act.policies.config` sorts them into the groups
that the policy's parts take. Without torch, so that `--help` answers at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

from act.errors import ConfigError
from act.policies.checks import check_bounds, check_not_negative, check_one_of, check_positive, check_types
from act.policies.config import config_of
from act.policies.generators.config import GENERATORS, CVAEConfig, GeneratorConfig

Sample = Literal["mean", "episode", "chunk"]
"""Noise of the generator: none, one sample for a whole episode, or a new one at every query."""

SAMPLING = ("num_inference_steps", "temperature", "top_p", "codes")
"""Settings of single generators that a rollout may change."""

UPPER_BOUNDS = {
    "chunk_size": 10_000,
    "d_model": 16_384,
    "ffn_dim": 65_536,
    "n_encoder_layers": 256,
    "n_decoder_layers": 256,
    "backbone_width": 16,
    "keypoints": 4096,
    "text_dim": 4096,
}
"""Far beyond what anybody trains: a mistyped or damaged size is refused before memory is allocated."""


@dataclass(frozen=True)
class PolicySettings:
    """The settings that all policies share, and those of the generator; ACT's numbers by default."""

    chunk_size: int = 100
    """k, the number of actions predicted at once; about 1 to 2 s work best."""
    cameras: tuple[str, ...] | None = None
    """Cameras that are inputs, in order. None takes all that the episodes have; an empty list needs --use-env-state."""
    use_env_state: bool = False
    """Object poses are an input. Only a simulator knows them."""
    text_encoder: str = ""
    """Instructions are an input, embedded by this encoder: minilm, or module:function of your own. One policy may then
    learn several tasks. Empty: no instructions."""
    text_dim: int = 384
    """Length of the encoder's vectors."""
    text_noise: float = 1.0
    """Noise on the instruction in training; 1 is at least as much as sentences of one meaning differ by. Phrasings that
    no demonstration used then lie inside the training distribution. Gradients get noisy: batches of 64 predict
    keyframes better than smaller ones."""
    film: bool = True
    """The instruction also scales the channels that keypoints are found in (FiLM, Perez et al. 2018, arXiv 1709.07871):
    the same keypoints then find what it names."""

    d_model: int = 512
    """Width of all tokens."""
    n_heads: int = 8
    """Attention heads."""
    ffn_dim: int = 3200
    """Width of the feed-forward layers."""
    n_encoder_layers: int = 4
    """Layers of the observation encoder."""
    n_decoder_layers: int = 1
    """Layers of the action decoder, all of them used. ACT's published code builds 7 and uses the first."""
    dropout: float = 0.1
    """Dropout in the transformers. On a CPU its random numbers take as long as half of all the rest."""
    pre_norm: bool = False
    """Layer norm before attention and feed-forward instead of after."""

    backbone: str = "resnet18"
    """Any timm network that returns feature maps."""
    backbone_weights: Literal["imagenet", "none"] = "imagenet"
    """Pretrained with frozen batch norm, or trained from scratch with live batch norm."""
    backbone_stride: int = 32
    """Which feature map becomes tokens: 32 is the last of a ResNet, 16 has four times the tokens."""
    map_tokens: bool = True
    """Cells of that feature map are tokens. Off: keypoints are the only visual input, which a few dozen demonstrations
    overfit less."""
    backbone_frozen: bool = False
    """Never train the backbone: its features are computed once for all frames before training (`--cache`)."""
    backbone_width: float = 1.0
    """Multiplies the channels of a ResNet trained from scratch."""
    frame_shift: int = 0
    """Training with a frozen backbone shifts every frame at random, by up to so many pixels either way; keypoints are
    shifted back. The few places of a few dozen demonstrations become many."""
    shared_backbone: bool = True
    """One backbone for all cameras, or one each."""
    keypoints: int = 0
    """Keypoints found in each image; their coordinates make one more token. 0, as published, for none."""
    keypoint_stride: int | None = None
    """Which feature map they are found in; None: the one that becomes tokens. A finer one, such as 8, is computed on
    the way and is more exact."""
    pose_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of the object poses (env_state), a linear function of the keypoints.
    Only training needs the poses; with episodes that have none it does nothing."""
    keyframe_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of the keyframe (each arm's position at its next gripper event),
    predicted from the keypoints and the grippers. The prediction becomes one more token."""
    keyframe_token: bool = True
    """The predicted keyframe is a token. Off: its loss trains the keypoints and nothing else. Where demonstrations have
    several modes, one predicted keyframe would be none of them."""
    ee_position_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of each arm's end-effector position at every action, predicted from
    its present position and its keyframe. Rollouts then correct the joints by IK to reach these positions. It does
    nothing for a robot without kinematics."""
    qpos_noise: float = 0.0
    """Noise on the joint positions in training, in their standard deviations; 0 as published. In demonstrations the
    arm's pose correlates with its goal; noise makes the policy use the images."""
    backbone_lr: float | None = None
    """Learning rate of the backbone, the keypoints and the keyframe head; None: that of the rest."""

    generator: GeneratorConfig = field(default_factory=CVAEConfig)
    """How chunks are generated."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.cameras is not None:
            object.__setattr__(self, "cameras", tuple(self.cameras))  # JSON has lists
            if len(set(self.cameras)) < len(self.cameras):
                raise ConfigError(f"cameras are {', '.join(self.cameras)}; name each only once")
        check_positive(self, "chunk_size", "text_dim", "d_model", "n_heads", "ffn_dim", "n_encoder_layers")
        check_positive(self, "n_decoder_layers", "backbone_width", "backbone_stride")
        check_not_negative(self, "pose_weight", "keyframe_weight", "ee_position_weight", "backbone_lr", "keypoints")
        check_not_negative(self, "qpos_noise", "text_noise", "frame_shift")
        check_bounds(self, UPPER_BOUNDS)
        check_one_of(self, "backbone_weights", "imagenet", "none")
        if self.d_model % self.n_heads or self.d_model % 4:
            raise ConfigError(
                f"d_model is {self.d_model} with {self.n_heads} heads; it must be a multiple of 4 and of n_heads"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if (self.keypoint_stride or 0) > self.backbone_stride:
            raise ConfigError(
                f"keypoint_stride is {self.keypoint_stride}, coarser than backbone_stride {self.backbone_stride}; "
                "choose a smaller one"
            )
        config_of(self)

    @property
    def policy(self) -> str:
        """The name of --policy."""
        return next(name for name, (config, _) in GENERATORS.items() if type(self.generator) is config)

    def replace(self, **changes: Any) -> Self:
        """A copy with other settings, the generator's among them."""
        own = {each.name for each in fields(self.generator)}
        generator = changes.pop("generator", self.generator)
        generator = replace(generator, **{name: value for name, value in changes.items() if name in own})
        shared = {name: value for name, value in changes.items() if name not in own}
        return replace(self, generator=generator, **shared)

    def to_dict(self) -> dict[str, Any]:
        """Flat, as files store them; the name of the policy is stored beside."""
        shared = asdict(self)
        return shared | shared.pop("generator")

    @classmethod
    def from_dict(cls, policy: str, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; settings that are missing have their defaults.

        Raises:
            TypeError: a setting that there is not.
            ConfigError: a value that a setting cannot have.
        """
        kind, _ = GENERATORS[policy]
        own = {each.name for each in fields(kind)}
        generator = kind(**{name: value for name, value in values.items() if name in own})
        return cls(**{name: value for name, value in values.items() if name not in own}, generator=generator)
