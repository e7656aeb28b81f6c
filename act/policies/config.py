"""The settings of a policy as its parts take them: a part that is absent has no settings.

`PolicySettings` (settings.py) are flat, as flags and files are. `config_of` sorts them into these groups, and refuses
flags of a part that is switched off. Each field is named after its flag.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn

from act.errors import ConfigError
from act.policies.generators.config import CVAEConfig, GeneratorConfig

if TYPE_CHECKING:
    from act.policies.settings import PolicySettings


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer that all generators share."""

    d_model: int
    n_heads: int
    ffn_dim: int
    dropout: float
    pre_norm: bool
    n_encoder_layers: int
    n_decoder_layers: int

    @property
    def layer(self) -> tuple[int, int, int, float, bool]:
        """The arguments of a layer: d_model, n_heads, ffn_dim, dropout, pre_norm."""
        return self.d_model, self.n_heads, self.ffn_dim, self.dropout, self.pre_norm


Weights = Literal["imagenet", "none"]


@dataclass(frozen=True)
class FrozenBackbone:
    """ImageNet weights that are never trained; training shifts frames by up to `frame_shift` pixels."""

    name: str
    frame_shift: int
    weights: ClassVar[Weights] = "imagenet"
    width = 1.0


@dataclass(frozen=True)
class FinetunedBackbone:
    """ImageNet weights that are trained, with frozen batch norm."""

    name: str
    frame_shift = 0
    weights: ClassVar[Weights] = "imagenet"
    width = 1.0


@dataclass(frozen=True)
class ScratchBackbone:
    """Random weights and live batch norm; `width` multiplies the channels."""

    name: str
    width: float
    frame_shift = 0
    weights: ClassVar[Weights] = "none"


Backbone = FrozenBackbone | FinetunedBackbone | ScratchBackbone


@dataclass(frozen=True)
class KeyframeTokenConfig:
    """The predicted keyframe is an input of the transformer; ee_position_weight 0: no end-effector positions."""

    ee_position_weight: float


@dataclass(frozen=True)
class KeyframeConfig:
    """Keyframes are predicted from the keypoints."""

    keyframe_weight: float
    token: KeyframeTokenConfig | None


@dataclass(frozen=True)
class KeypointConfig:
    """Keypoints are found in a feature map; `map_tokens`: the coarsest map's cells are tokens as well."""

    count: int
    map_tokens: bool
    pose_weight: float
    keyframes: KeyframeConfig | None


@dataclass(frozen=True)
class VisionConfig:
    """Cameras, their backbone and what is read off its maps."""

    cameras: tuple[str, ...] | None  # None: all of the episodes
    backbone: Backbone
    backbone_stride: int  # of the map that becomes tokens
    fine_stride: int  # of the map that keypoints are found in
    shared_backbone: bool
    backbone_lr: float | None
    keypoints: KeypointConfig | None

    @property
    def map_tokens(self) -> bool:
        return self.keypoints is None or self.keypoints.map_tokens

    @property
    def keyframes(self) -> KeyframeConfig | None:
        return None if self.keypoints is None else self.keypoints.keyframes


@dataclass(frozen=True)
class LanguageConfig:
    """Instructions are an input."""

    text_encoder: str
    text_dim: int
    text_noise: float
    film: bool


@dataclass(frozen=True)
class PolicyConfig:
    """All of it."""

    chunk_size: int
    use_env_state: bool
    qpos_noise: float
    vision: VisionConfig | None
    language: LanguageConfig | None
    transformer: TransformerConfig
    generator: GeneratorConfig


def config_of(settings: "PolicySettings") -> PolicyConfig:
    """The groups of flat settings.

    Raises:
        ConfigError: a setting belongs to a part that other settings switch off.
    """
    s = settings
    if s.cameras == () and not s.use_env_state:
        raise ConfigError("the policy has no cameras and no object poses: give it --cameras or --use-env-state")
    vision = None if s.cameras == () else _vision(s)
    has_keypoints = vision is None or vision.keypoints is not None
    if isinstance(s.generator, CVAEConfig) and s.generator.prior == "learned" and not has_keypoints:
        _refuse("prior is learned", "there are no keypoints to predict it from", "--prior standard", "--keypoints 32")
    language = LanguageConfig(s.text_encoder, s.text_dim, s.text_noise, s.film) if s.text_encoder else None
    transformer = TransformerConfig(
        s.d_model, s.n_heads, s.ffn_dim, s.dropout, s.pre_norm, s.n_encoder_layers, s.n_decoder_layers
    )
    return PolicyConfig(s.chunk_size, s.use_env_state, s.qpos_noise, vision, language, transformer, s.generator)


def _vision(s: "PolicySettings") -> VisionConfig:
    keypoints = None
    if s.keypoints:
        keypoints = KeypointConfig(s.keypoints, s.map_tokens, s.pose_weight, _keyframes(s))
    else:
        for name in ("pose_weight", "keyframe_weight"):
            if weight := getattr(s, name):
                flag = "--" + name.replace("_", "-")
                _refuse(f"{name} is {weight:g}", "there are no keypoints", f"{flag} 0", "--keypoints 32")
        if not s.map_tokens:
            _refuse("map_tokens is off", "there are no keypoints either", "--map-tokens", "--keypoints 32")
    fine = s.keypoint_stride or s.backbone_stride
    return VisionConfig(s.cameras, _backbone(s), s.backbone_stride, fine, s.shared_backbone, s.backbone_lr, keypoints)


def _keyframes(s: "PolicySettings") -> KeyframeConfig | None:
    weight = f"ee_position_weight is {s.ee_position_weight:g}"
    if not s.keyframe_weight:
        if s.ee_position_weight:
            _refuse(weight, "no keyframes are predicted", "--ee-position-weight 0", "--keyframe-weight 1")
        return None
    if not s.keyframe_token and s.ee_position_weight:
        _refuse(weight, "the keyframe is no input", "--ee-position-weight 0", "--keyframe-token")
    token = KeyframeTokenConfig(s.ee_position_weight) if s.keyframe_token else None
    return KeyframeConfig(s.keyframe_weight, token)


def _backbone(s: "PolicySettings") -> Backbone:
    scratch = s.backbone_weights == "none"
    if s.backbone_frozen and scratch:
        _refuse(
            "backbone_frozen is on",
            "its weights would stay random",
            "--no-backbone-frozen",
            "--backbone-weights imagenet",
        )
    if s.frame_shift and not s.backbone_frozen:
        _refuse(f"frame_shift is {s.frame_shift}", "the backbone is trained", "--frame-shift 0", "--backbone-frozen")
    if scratch:
        return ScratchBackbone(s.backbone, s.backbone_width)
    if s.backbone_width != 1:
        _refuse(
            f"backbone_width is {s.backbone_width:g}",
            "ImageNet weights exist only for width 1",
            "--backbone-width 1",
            "--backbone-weights none",
        )
    return FrozenBackbone(s.backbone, s.frame_shift) if s.backbone_frozen else FinetunedBackbone(s.backbone)


def _refuse(what: str, but: str, *fixes: str) -> NoReturn:
    raise ConfigError(f"{what}, but {but}; use {' or '.join(fixes)}")
