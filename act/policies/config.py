"""The settings of all policies: checked when they are built, and here without torch, so that a command line answers at
once.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from act.errors import ConfigError

Sample = Literal["mean", "episode", "chunk"]
"""Of several ways to go on: the one in their middle, or one drawn for a whole episode or at every look."""

SAMPLING = ("sampling_steps", "temperature", "top_p", "codes")
"""Settings of single families that may be others in a rollout than in training."""

MOST = {
    "chunk_size": 10_000,
    "d_model": 16_384,
    "ffn_dim": 65_536,
    "n_encoder_layers": 256,
    "n_style_layers": 256,
    "n_decoder_layers": 256,
    "backbone_width": 16,
    "keypoints": 4096,
    "latent_dim": 16_384,
    "text_dim": 4096,
    "bins": 65_536,
    "coefficients": 10_000,
    "transforms": 64,
    "flow_width": 16_384,
    "critic_width": 16_384,
    "noise_levels": 100_000,
    "sampling_steps": 100_000,
}
"""Far beyond what anybody trains: a mistyped or damaged size is named before memory is asked for."""


@dataclass(frozen=True)
class SeeingConfig:
    """The settings that all policies share; ACT's numbers by default."""

    chunk_size: int = 100
    """k, the number of actions predicted at once; about 1 to 2 s work best."""
    cameras: tuple[str, ...] | None = None
    """Cameras to look at, in order. None takes all that the episodes have; an empty list needs --use-env-state."""
    use_env_state: bool = False
    """Look at the object poses, which only a simulator knows."""
    text_encoder: str = ""
    """Be told what to do in words, which this encoder turns into numbers: minilm, or module:function of your own. Then
    one policy may learn several tasks. Empty: it is told nothing."""
    text_dim: int = 384
    """How many numbers the encoder makes of a sentence."""
    text_noise: float = 1.0
    """Noise on these numbers in training; 1 is at least as much as sentences that mean the same differ by. What is said
    in other words than any demonstration was told with then lies no longer outside of all that the policy knows. It
    makes gradients noisy: batches of 64 tell keyframes better than smaller ones."""
    film: bool = True
    """Words, where there are any, also scale the channels that keypoints are found in (FiLM, Perez et al.
    2018, arXiv 1709.07871): the same keypoints then look for what is meant."""

    d_model: int = 512
    """Width of all tokens."""
    n_heads: int = 8
    """Attention heads."""
    ffn_dim: int = 3200
    """Width of the feed-forward layers."""
    n_encoder_layers: int = 4
    """Layers of the observation encoder."""
    dropout: float = 0.1
    """Dropout in the transformers. On a CPU its random numbers take as long as half of all the rest."""
    pre_norm: bool = False
    """Layer norm before attention and feed-forward instead of after."""

    backbone: str = "resnet18"
    """Any timm network that gives feature maps."""
    backbone_weights: Literal["imagenet", "none"] = "imagenet"
    """Pretrained with frozen batch norm, or trained from scratch with a live one."""
    backbone_stride: int = 32
    """Which feature map becomes tokens: 32 is the last of a ResNet, 16 gives four times the tokens."""
    map_tokens: bool = True
    """Whether that feature map becomes tokens at all. Without, keypoints are all that is seen of the pictures: a few
    dozen demonstrations then leave little to be learnt by heart."""
    backbone_frozen: bool = False
    """Never train the backbone: what it sees is computed once for all frames before training (`--cache`)."""
    backbone_width: float = 1.0
    """Multiplies the channels of a ResNet trained from scratch."""
    frame_shift: int = 0
    """In training a frozen backbone sees every frame shifted at random, by up to so many pixels either way; keypoints
    take the shift off again. What lies between the pixels of a few dozen demonstrations is then learnt too."""
    shared_backbone: bool = True
    """One backbone for all cameras, or one each."""
    keypoints: int = 0
    """Keypoints found in each picture, whose coordinates make one more token; 0, as published, for none."""
    keypoint_stride: int | None = None
    """Which feature map they are found in; None: the one that becomes tokens. A finer one, 8 say, is on the way to it
    and tells places more exactly."""
    pose_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of the object poses (env_state), read linearly from the keypoints. It
    teaches them where things are. Only training needs the poses; with episodes that have none it does nothing."""
    keyframe_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of the keyframe (the place of each arm's next gripper event, see
    `act.keyframes`), told from the keypoints and the
    grippers. What is told becomes one more token."""
    keyframe_token: bool = True
    """Whether it does. Without, the loss teaches keypoints and nothing else: where demonstrations go several ways, one
    keyframe, told beforehand, would not be any of them."""
    qpos_noise: float = 0.0
    """Noise on the joint positions in training, in their standard deviations. In demonstrations the pose of the arm
    gives away where it is going; with noise the policy has to look. 0 as published."""
    backbone_lr: float | None = None
    """Learning rate of the backbone, of what finds keypoints in its maps, and of what tells keyframes from them; None:
    that of the rest."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.cameras is not None:
            object.__setattr__(self, "cameras", tuple(self.cameras))  # JSON gives a list
            if len(set(self.cameras)) < len(self.cameras):
                raise ConfigError(f"cameras are {', '.join(self.cameras)}; name each only once")
        sizes = ("d_model", "n_heads", "ffn_dim", "n_encoder_layers", "backbone_width", "backbone_stride")
        check_positive(self, "chunk_size", "text_dim", *sizes)
        for name, most in MOST.items():
            if getattr(self, name, 0) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at most {most}")
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
        weights = ("pose_weight", "keyframe_weight")
        check_not_negative(self, *weights, "backbone_lr", "keypoints", "qpos_noise", "text_noise", "frame_shift")
        for what in ("pose", "keyframe"):
            weight = getattr(self, f"{what}_weight")
            if weight and not self.keypoints and self.cameras != ():
                raise ConfigError(
                    f"{what}_weight is {weight:g}, but there are no keypoints to read {what}s from; "
                    f"use --{what}-weight 0 or --keypoints 32"
                )
        if not self.map_tokens and not self.keypoints and self.cameras != ():
            raise ConfigError("without map_tokens and keypoints no picture is seen; use --map-tokens or --keypoints 32")
        if self.backbone_frozen and self.backbone_weights == "none":
            raise ConfigError(
                "backbone_frozen would keep the random weights of --backbone-weights none for ever; "
                "use --no-backbone-frozen or --backbone-weights imagenet"
            )
        if self.frame_shift and not self.backbone_frozen:
            raise ConfigError(
                f"frame_shift is {self.frame_shift}, which only frozen backbones can have; use --frame-shift 0"
            )
        if self.backbone_weights not in ("imagenet", "none"):
            raise ConfigError(f"backbone_weights is {self.backbone_weights!r}; choose imagenet or none")
        if self.backbone_weights == "imagenet" and self.backbone_width != 1:
            raise ConfigError(
                f"backbone_width is {self.backbone_width:g}, but ImageNet weights exist only for width 1; "
                "use --backbone-weights none"
            )
        if self.cameras == () and not self.use_env_state:
            raise ConfigError("the policy would be blind: give it cameras or --use-env-state")


@dataclass(frozen=True)
class AnsweringConfig(SeeingConfig):
    """The settings of policies that answer with joints, and tell where the tools are."""

    n_decoder_layers: int = 1
    """Layers of the action decoder, all of them used. ACT's published code builds 7 and uses the first."""
    place_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of where each arm's tool is at every action, told from where it is
    now and from its keyframe. In rollouts the joints are then corrected to bring the tools there (`act.reach`): what is
    learnt of one place holds at all others. Of robots whose kinematics are not known it does nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "n_decoder_layers")
        check_not_negative(self, "place_weight")
        if self.place_weight and not self.keyframe_weight:
            raise ConfigError(
                f"place_weight is {self.place_weight:g}, but there are no keyframes to measure places from; "
                "use --place-weight 0 or --keyframe-weight 1"
            )
        if self.place_weight and not self.keyframe_token:
            raise ConfigError(
                f"place_weight is {self.place_weight:g}, and places are measured from the keyframe that is told; "
                "use --place-weight 0 or --keyframe-token"
            )


@dataclass(frozen=True)
class ACTConfig(AnsweringConfig):
    """The paper's numbers by default."""

    n_style_layers: int = 4
    """Layers of the style encoder q(z | qpos, actions)."""
    use_vae: bool = True
    """False leaves out z and the style encoder: plain regression."""
    latent_dim: int = 32
    """Length of z."""
    kl_weight: float = 10.0
    """β. The authors advise 10 to 100, at which z carries nothing of most demonstrations."""
    prior: Literal["standard", "learned"] = "standard"
    """What z is without actions: standard normal, or a normal distribution told from keypoints (or object poses) and
    joint positions."""
    free_nats: float = 0.0
    """KL, as a mean over the batch, below which z costs the style encoder nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "n_style_layers", "latent_dim")
        check_not_negative(self, "kl_weight", "free_nats")
        if self.prior not in ("standard", "learned"):
            raise ConfigError(f"prior is {self.prior!r}; choose standard or learned")
        if self.use_vae and self.prior == "learned" and not self.keypoints and self.cameras != ():
            raise ConfigError("prior learned has no keypoints to be told from; use --prior standard or --keypoints 32")


@dataclass(frozen=True)
class RegressionConfig(AnsweringConfig):
    """No latent: the middle of all ways of going on."""


@dataclass(frozen=True)
class AutoencoderConfig(AnsweringConfig):
    """A latent without a prior."""

    use_vae: ClassVar[bool] = True  # of ACT, whose style encoder this is
    prior: ClassVar[str] = "standard"

    n_style_layers: int = 1
    """Layers of the encoder z(qpos, actions)."""
    latent_dim: int = 32
    """Length of z."""
    codes: Literal["gaussian", "code"] = "gaussian"
    """What z is when one is drawn: from a normal distribution fitted to the codes of the demonstrations, or one of
    these codes. Where none is drawn, z is 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "n_style_layers", "latent_dim")
        check_one_of(self, "codes", "gaussian", "code")


@dataclass(frozen=True)
class GANConfig(AnsweringConfig):
    """A generator, and a critic that tells its chunks from demonstrated ones."""

    latent_dim: int = 32
    """Length of the generator's noise."""
    adversarial_weight: float = 0.1
    """Weight of the critic's judgement in the generator's loss."""
    l1_weight: float = 1.0
    """Weight of the L1 to the demonstrated chunk in the generator's loss; 0 is purely adversarial."""
    critic_width: int = 128
    """Channels of the critic."""
    critic_lr: float = 1e-3
    """Highest learning rate of the critic."""
    slope_weight: float = 1.0
    """γ of R1: what the critic pays for being steep where demonstrations are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "latent_dim", "critic_width", "critic_lr")
        check_not_negative(self, "adversarial_weight", "l1_weight", "slope_weight")


@dataclass(frozen=True)
class AutoregressiveConfig(AnsweringConfig):
    """A chunk as tokens, each predicted from those before it."""

    code: Literal["dct", "bins"] = "dct"
    """What a token is: a coefficient of the chunk's cosine transform, lowest frequency first, or a value at a step."""
    coefficients: int = 8
    """Of the cosine transform, for each number of an action; the rest is as it is told first."""
    resolution: float = 0.05
    """Width of a bin, in standard deviations. Of a chunk of 50 steps the slowest coefficient is about 7 wide."""
    bins: int = 1024
    """How many bins there are, half of them on either side of 0."""
    mixture: int = 5
    """How many logistic distributions a token's is mixed from."""
    temperature: float = 1.0
    """Of draws; lower ones are nearer to the most likely chunk."""
    top_p: float = 1.0
    """Draw among the most likely bins that together have this probability."""
    nats_weight: float = 0.1
    """Weight of a token's cross entropy; that of the L1 of where the chunk lies is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "coefficients", "resolution", "bins", "mixture", "temperature", "top_p", "nats_weight")
        check_one_of(self, "code", "dct", "bins")


@dataclass(frozen=True)
class FlowConfig(AnsweringConfig):
    """A normalising flow over the leading coefficients of the chunk's cosine transform."""

    coefficients: int = 8
    """Of the cosine transform, for each number of an action; the rest is told, with noise of learnt scale."""
    coupled: bool = False
    """Each layer changes half of the coefficients given the other half, so that draws take two looks a layer. By
    default it changes each given all before it, and draws take as many looks as there are coefficients: halves whose
    numbers do not know of each other keep two ways apart badly."""
    transforms: int = 1
    """Layers of the flow, each a rational-quadratic spline (Durkan et al. 2019, arXiv 1906.04032)."""
    flow_width: int = 256
    """Width of the networks that tell the splines."""
    nats_weight: float = 0.1
    """Weight of the negative log-likelihood of a number; that of L1 is 1. The surer a flow, the steeper it is, and at 1
    it leaves little to be learnt of where the middle lies."""
    temperature: float = 1.0
    """Scale of the noise that draws begin with (Kingma and Dhariwal 2018, arXiv 1807.03039, section 6)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "coefficients", "transforms", "flow_width", "nats_weight", "temperature")


@dataclass(frozen=True)
class FlowMatchingConfig(AnsweringConfig):
    """Noise that flows to a chunk along straight lines."""

    sampling_steps: int = 5
    """Euler steps from noise to a chunk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "sampling_steps")


@dataclass(frozen=True)
class DiffusionConfig(AnsweringConfig):
    """Noise that is taken off a chunk little by little."""

    noise_levels: int = 100
    """Levels of noise in training."""
    sampling_steps: int = 10
    """Of them in rollouts (DDIM, Song et al. 2021, arXiv 2010.02502)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "noise_levels", "sampling_steps")
        if self.sampling_steps > self.noise_levels:
            raise ConfigError(
                f"sampling_steps is {self.sampling_steps}, more than noise_levels, {self.noise_levels}; choose fewer"
            )


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_types(config: Any) -> None:
    """ConfigError where a setting is of another type than its default."""
    for field in fields(config):
        value, kind = getattr(config, field.name), type(field.default)
        fits = isinstance(value, float | int if kind is float else kind)
        fits = fits and (kind is bool or not isinstance(value, bool))  # a bool is an int, too
        if kind in (bool, int, float, str) and not fits:
            raise ConfigError(f"{field.name} is {value!r}; it must be {WORDS[kind]}")


def check_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be positive")


def check_one_of(config: object, name: str, *known: str) -> None:
    if getattr(config, name) not in known:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; choose {' or '.join(known)}")


def check_not_negative(config: object, *names: str) -> None:
    for name in names:
        if not (getattr(config, name) or 0) >= 0:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must not be negative")
