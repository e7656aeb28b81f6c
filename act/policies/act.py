"""ACT: action chunking with transformers, a conditional VAE (Zhao et al. 2023, arXiv 2304.13705, section IV).

    training    qpos, a_1 … a_k ── style encoder ──► μ, σ ──► z = μ + σ ε;  loss L1(â, a) + β KL(N(μ, σ²) ‖ prior)
    inference                                                 z = the prior's mean, or drawn from it
    both        z, qpos, (object poses), image tokens ── encoder ── decoder, k learned queries ──► â_1 … â_k

Where this differs from the published code:
- L1 is divided by the number of valid cells; the original divides by all, so short remainders of episodes counted less.
- The answer is the last decoder layer's. The original returns the first one's, whatever the depth: its "7 layers" act
  as 1. The default is therefore 1, about 52 M parameters in all; 7 gives 84 M.
- Several cameras get a learned embedding each; the original tells them apart by their contents alone.
- Object poses may be one more token, beside images or instead of them.
- In evaluation mode z is the posterior's mean instead of a draw: the validation loss is then a fixed number.
- The prior is N(0, 1), as published, or, as an option of ours, learned: a normal distribution told from the observation
  (Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional Generative Models", section 4).
  Then β prices only what the observation leaves open, and can be small.
- Options of ours, off by default: keypoints (`vision.Keypoints`), beside the image tokens or in their place; auxiliary
  losses that teach them object poses, or where each arm will next close or open its gripper (`act.keyframes`), the
  answer to which becomes one more token; a backbone that is never trained; and noise on the joint positions.
- Without the VAE there is no z token at all; the original feeds it zeros.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from act.errors import ConfigError
from act.keyframes import keyframe_dim
from act.normalizer import Normalizer
from act.policies.backbones import make_backbone
from act.policies.base import Batch, Observation, Policy
from act.policies.transformer import Decoder, Encoder, Float32Linear, sinusoid_1d
from act.policies.vision import CameraEncoder
from act.reach import reach, tools
from demos import kinematics
from demos.spec import EpisodeSpec

ELSEWHERE = 0.6  # standard deviations by which a keyframe changes when an arm goes somewhere else
LOOKS = 10  # that a remembered keyframe is the mean of


@dataclass(frozen=True)
class ACTConfig:
    """The paper's numbers by default."""

    chunk_size: int = 100
    """k, the number of actions predicted at once; about 1 to 2 s work best."""
    cameras: tuple[str, ...] | None = None
    """Cameras to look at, in order. None takes all that the episodes have; an empty list needs --use-env-state."""
    use_env_state: bool = False
    """Look at the object poses, which only a simulator knows."""

    d_model: int = 512
    """Width of all tokens."""
    n_heads: int = 8
    """Attention heads."""
    ffn_dim: int = 3200
    """Width of the feed-forward layers."""
    n_style_layers: int = 4
    """Layers of the style encoder q(z | qpos, actions)."""
    n_encoder_layers: int = 4
    """Layers of the observation encoder."""
    n_decoder_layers: int = 1
    """Layers of the action decoder, all of them used. The published code builds 7 and uses the first."""
    dropout: float = 0.1
    """Dropout in the transformers. On a CPU its random numbers take as long as half of all the rest."""
    pre_norm: bool = False
    """Layer norm before attention and feed-forward instead of after."""

    use_vae: bool = True
    """False leaves out z and the style encoder: plain regression."""
    latent_dim: int = 32
    """Length of z."""
    kl_weight: float = 10.0
    """β. The authors advise 10 to 100, at which z carries nothing of most demonstrations."""
    prior: Literal["standard", "learned"] = "standard"
    """What z is without actions: standard normal, or a normal distribution told from keypoints (or object poses) and
    joint positions."""

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
    `act.keyframes`), told from the keypoints alone. What is told becomes one more token."""
    place_weight: float = 0.0
    """Weight of an auxiliary loss: L1 in z-scores of where each arm's tool is at every action, told with the keyframe
    as a landmark. In rollouts the joints are then corrected to bring the tools there (`act.reach`): what is learnt of
    one place holds at all others. Of robots whose kinematics are not known it does nothing."""
    qpos_noise: float = 0.0
    """Noise on the joint positions in training, in their standard deviations. In demonstrations the pose of the arm
    gives away where it is going; with noise the policy has to look. 0 as published."""
    backbone_lr: float | None = None
    """Learning rate of the backbone, of what finds keypoints in its maps, and of what tells keyframes from them; None:
    that of the rest."""

    def __post_init__(self) -> None:
        if self.cameras is not None:
            object.__setattr__(self, "cameras", tuple(self.cameras))  # JSON gives a list
            if len(set(self.cameras)) < len(self.cameras):
                raise ConfigError(f"cameras are {', '.join(self.cameras)}; name each only once")
        widths = "d_model n_heads ffn_dim latent_dim backbone_width backbone_stride"
        for name in f"chunk_size n_style_layers n_encoder_layers n_decoder_layers {widths}".split():
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
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
        weights = [f"{what}_weight" for what in ("kl", "pose", "keyframe", "place")]
        for name in (*weights, "backbone_lr", "keypoints", "qpos_noise", "frame_shift"):
            if not (getattr(self, name) or 0) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        for what in ("pose", "keyframe"):
            weight = getattr(self, f"{what}_weight")
            if weight and not self.keypoints and self.cameras != ():
                raise ConfigError(
                    f"{what}_weight is {weight:g}, but there are no keypoints to read {what}s from; "
                    f"use --{what}-weight 0 or --keypoints 32"
                )
        if self.place_weight and not self.keyframe_weight:
            raise ConfigError(
                f"place_weight is {self.place_weight:g}, but there are no keyframes to measure places from; "
                "use --place-weight 0 or --keyframe-weight 1"
            )
        if self.prior not in ("standard", "learned"):
            raise ConfigError(f"prior is {self.prior!r}; choose standard or learned")
        if self.use_vae and self.prior == "learned" and not self.keypoints and self.cameras != ():
            raise ConfigError("prior learned has no keypoints to be told from; use --prior standard or --keypoints 32")
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


class ACTPolicy(Policy):
    """See the head of this file.

    Args:
        config: the settings.
        spec: what the episodes contain: joints, cameras with sizes, length of the object poses.
        pretrained: False builds the backbone without downloading weights, for a checkpoint to fill in.

    Raises:
        ConfigError: the config asks for cameras or object poses that the episodes do not have, or see `make_backbone`.
    """

    position_of_style: Tensor

    def __init__(self, config: ACTConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__()
        self.config, self.spec, self.chunk_size = config, spec, config.chunk_size
        self.cameras = tuple(spec.cameras) if config.cameras is None else config.cameras
        self.uses_env_state = config.use_env_state
        self._check_against_spec()

        n_joints, d, k = len(spec.joint_names), config.d_model, config.chunk_size
        reads_poses = bool(config.pose_weight and self.cameras and spec.env_state_dim)
        dims = {"qpos": n_joints, "action": n_joints}
        if config.use_env_state or reads_poses:
            dims["env_state"] = spec.env_state_dim
        tells_keyframes = bool(config.keyframe_weight and self.cameras)
        if tells_keyframes:
            dims["keyframe"] = keyframe_dim(spec.joint_names)
        tells_places = tells_keyframes and config.place_weight > 0 and kinematics.knows(spec.joint_names)
        if tells_places:
            dims["place"] = 6
        self.normalizer = Normalizer(dims)
        shape = (d, config.n_heads, config.ffn_dim, config.dropout, config.pre_norm)

        if config.use_vae:  # q(z | qpos, a_1 … a_k)
            self.cls_token = nn.Parameter(torch.randn(d))
            self.style_qpos_proj = Float32Linear(n_joints, d)
            self.style_action_proj = Float32Linear(n_joints, d)
            self.style_encoder = Encoder(config.n_style_layers, *shape)
            self.latent_head = Float32Linear(d, 2 * config.latent_dim)  # μ, log σ²
            self.latent_proj = Float32Linear(config.latent_dim, d)
            self.register_buffer("position_of_style", sinusoid_1d(2 + k, d), persistent=False)

        self.qpos_proj = Float32Linear(n_joints, d)
        self.env_state_proj = Float32Linear(spec.env_state_dim, d) if config.use_env_state else None
        self.vision = self._make_vision(pretrained) if self.cameras else None
        if tells_keyframes:
            self.keyframe_head = two_layers(len(self.cameras) * d, d, dims["keyframe"])
            self.keyframe_proj = Float32Linear(dims["keyframe"], d)
        self.prior_head = None  # μ, log σ² of p(z | observation)
        if config.use_vae and config.prior == "learned":
            seen = len(self.cameras) * d + n_joints + spec.env_state_dim * config.use_env_state
            self.prior_head = two_layers(seen, d, 2 * config.latent_dim)
        vectors = 1 + config.use_vae + config.use_env_state + tells_keyframes
        self.vector_position = nn.Parameter(torch.randn(vectors, d))
        self.tells_keyframes = tells_keyframes
        self.pose_head = Float32Linear(len(self.cameras) * d, spec.env_state_dim) if reads_poses else None
        self.encoder = Encoder(config.n_encoder_layers, *shape)
        self.query = nn.Parameter(torch.randn(k, d))
        self.decoder = Decoder(config.n_decoder_layers, *shape)
        self.action_head = Float32Linear(d, n_joints)
        self.place_head = Float32Linear(d, 8) if tells_places else None  # of each arm 3 numbers and a share

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "l1", "kl"} and perhaps "pose", "keyframe", "place": mean errors in z-scores, but kl is in nats.

        loss = l1 + kl_weight · kl + pose_weight · pose + keyframe_weight · keyframe + place_weight · place
        """
        config, observation, target = self.config, batch.observation, self._target(batch)
        z, kl = None, target.new_zeros(())
        image_tokens = self._see(observation)
        if config.use_vae:
            mu, logvar = self._encode_style(observation, target, batch.is_pad)
            z = mu + torch.randn_like(mu) * (logvar / 2).exp() if self.training else mu
            kl = kl_divergence(mu, logvar, *self._prior(observation, image_tokens)).sum(dim=-1).mean()
        keyframe = self._tell_keyframe(image_tokens)
        decoded = self._decode(observation, image_tokens, z, keyframe)
        chunk = self.action_head(decoded)
        l1 = masked_l1(chunk, target, batch.is_pad, batch.valid_steps)
        losses = {"loss": l1 + config.kl_weight * kl, "l1": l1, "kl": kl}
        if self.pose_head is not None:
            poses = self.pose_head(self._points(image_tokens))
            losses["pose"] = F.l1_loss(poses, self._env_state(observation))
            losses["loss"] = losses["loss"] + config.pose_weight * losses["pose"]
        if keyframe is not None:
            if batch.keyframe is None:
                raise ConfigError("the policy learns keyframes, given a batch without; use --keyframe-weight 0")
            true = self.normalizer.normalize("keyframe", batch.keyframe)
            losses["keyframe"] = F.l1_loss(keyframe, true)
            losses["loss"] = losses["loss"] + config.keyframe_weight * losses["keyframe"]
            if self.place_head is not None:
                places = self.normalizer.normalize("place", tools(batch.action)[0].flatten(-2))
                losses["place"] = masked_l1(self._places(decoded, true), places, batch.is_pad, batch.valid_steps)
                losses["loss"] = losses["loss"] + config.place_weight * losses["place"]
        return losses

    @torch.no_grad()
    def predict(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The next k actions, (B, k, A), in physical units.

        With z = the prior's mean, 0 if it is standard; or, given (B, latent_dim) standard normal numbers, with
        z = μ + σ · chance: drawn from the prior. Remembered is where each arm is going (`remembered`).
        """
        decoded, keyframe = self._answer(observation, chance, memory)
        action = self.normalizer.unnormalize("action", self.action_head(decoded))
        if self.place_head is None or keyframe is None:
            return action
        places = self.normalizer.unnormalize("place", self._places(decoded, keyframe))
        return reach(action, places.unflatten(-1, (2, 3)))

    @property
    def chance_dim(self) -> int:
        return self.config.latent_dim if self.config.use_vae else 0

    @torch.no_grad()
    def diagnostics(self, batch: Batch) -> dict[str, float]:
        """What the latent does on this batch; the larger the batch, the better the count of active units.

        "l1_z0" is the L1 with the prior's mean, as at inference. "active_units" counts the dimensions whose posterior
        mean varies between samples, seen from the prior in its standard deviations: Var_x(E[z|x]) > 0.01 (Burda et al.
        2016, arXiv 1509.00519). "posterior_std" is the mean σ in those, 1 if nothing is encoded. "kl_dim/00" … are nats
        per dimension, mean over the batch.
        """
        target = self._target(batch)
        chunk = self.action_head(self._answer(batch.observation)[0])
        figures = {"l1_z0": masked_l1(chunk, target, batch.is_pad).item()}
        if self.config.use_vae:
            mu, logvar = self._encode_style(batch.observation, target, batch.is_pad)
            prior_mu, prior_logvar = self._prior(batch.observation, self._see(batch.observation))
            shift = (mu - prior_mu) * (-prior_logvar / 2).exp()
            figures["active_units"] = float((shift.var(dim=0, correction=0) > 0.01).sum())
            figures["posterior_std"] = ((logvar - prior_logvar) / 2).exp().mean().item()
            per_dim = kl_divergence(mu, logvar, prior_mu, prior_logvar).mean(dim=0).tolist()
            figures |= {f"kl_dim/{i:02d}": kl for i, kl in enumerate(per_dim)}
        return figures

    @torch.no_grad()
    def attention(self, observation: Observation) -> dict[str, Tensor]:
        """Of the last decoder layer's queries to the memory, mean over actions and heads; vectors take the rest."""
        if self.vision is None:
            return {}
        cross: Any = self.decoder.layers[-1].cross_attention
        inputs: list[tuple[Tensor, ...]] = []
        hook = cross.register_forward_pre_hook(lambda _, given: inputs.append(given))
        try:
            self.predict(observation)
        finally:
            hook.remove()
        query, key, _ = inputs[0]
        shares = cross.weights(query, key).mean(dim=(1, 2))  # (B, tokens)
        return self.vision.as_maps(shares[:, len(self.vector_position) :])

    @torch.no_grad()
    def encode_frames(self, camera: str, frames: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        if self.vision is None or not self.vision.frozen:
            return None
        shifts = None if generator is None else self.vision.draw_shifts(len(frames), generator).to(frames.device)
        return self.vision.encode(camera, frames, shifts)

    @torch.no_grad()
    def keypoints(self, observation: Observation) -> dict[str, Tensor]:
        return {} if self.vision is None else self.vision.find_keypoints(observation.images)

    @torch.no_grad()
    def latent(self, batch: Batch) -> Tensor | None:
        """The posterior's mean of z."""
        if not self.config.use_vae:
            return None
        return self._encode_style(batch.observation, self._target(batch), batch.is_pad)[0]

    def parameter_groups(self, lr: float) -> list[dict]:
        parts = ("backbones", "merged", "keypoints")
        modules = [] if self.vision is None else [getattr(self.vision, name) for name in parts]
        modules += [self.keyframe_head] if self.tells_keyframes else []
        backbone = [p for module in modules for p in module.parameters()]
        ours = {id(p) for p in backbone}
        groups = [
            {"params": [p for p in self.parameters() if id(p) not in ours], "lr": lr},
            {"params": backbone, "lr": lr if self.config.backbone_lr is None else self.config.backbone_lr},
        ]
        groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
        return [group for group in groups if group["params"]]

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
        )

    def _target(self, batch: Batch) -> Tensor:
        """Actions as z-scores, (B, k, A); padded ones are zeroed, so not even a NaN there can reach a sum."""
        action = self.normalizer.normalize("action", batch.action)
        return action.masked_fill(rearrange(batch.is_pad, "b k -> b k 1"), 0.0)

    def _encode_style(self, observation: Observation, target: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z | qpos, a_1 … a_k), each (B, latent_dim) float32."""
        qpos = self.style_qpos_proj(self.normalizer.normalize("qpos", observation.qpos))
        cls = repeat(self.cls_token, "d -> b 1 d", b=len(qpos))
        tokens = torch.cat([cls, rearrange(qpos, "b d -> b 1 d"), self.style_action_proj(target)], dim=1)
        is_pad = F.pad(is_pad, (2, 0), value=False)
        encoded = self.style_encoder(tokens, self.position_of_style, is_pad)
        mu, logvar = self.latent_head(encoded[:, 0]).chunk(2, dim=-1)
        return mu, logvar

    def _see(self, observation: Observation) -> Tensor:
        """Image tokens (B, L, d_model), the keypoints' last; L = 0 for a policy without cameras."""
        if self.vision is None:
            return observation.qpos.new_zeros(len(observation.qpos), 0, self.config.d_model)
        return self.vision(observation.images, observation.features)

    def _points(self, image_tokens: Tensor) -> Tensor:
        """The keypoints' tokens, (B, cameras · d_model) float32."""
        first = image_tokens.shape[1] - len(self.cameras)
        return rearrange(image_tokens[:, first:], "b n d -> b (n d)").float()

    def _tell_keyframe(self, image_tokens: Tensor) -> Tensor | None:
        """Where each arm is going, (B, K) as z-scores, told from the keypoints.

        Not from the joints: on its way the arm gives away where it is going, and would be believed instead of looked
        past.
        """
        return self.keyframe_head(self._points(image_tokens)) if self.tells_keyframes else None

    def _prior(self, observation: Observation, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of p(z | observation), each (B, latent_dim) float32."""
        if self.prior_head is None:
            zero = observation.qpos.new_zeros(len(observation.qpos), self.config.latent_dim)
            return zero, zero
        seen = [self._points(image_tokens), self.normalizer.normalize("qpos", observation.qpos)]
        if self.uses_env_state:
            seen.append(self._env_state(observation))
        mu, logvar = self.prior_head(torch.cat(seen, dim=-1)).chunk(2, dim=-1)
        return mu, logvar

    def _answer(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What is decoded (B, k, d_model) with the prior's mean, or a draw from it, and the keyframe it was told."""
        image_tokens, z = self._see(observation), None
        if self.config.use_vae:
            z, logvar = self._prior(observation, image_tokens)
            if chance is not None:
                z = z + (logvar / 2).exp() * chance
        keyframe = self._tell_keyframe(image_tokens)
        if keyframe is not None and memory is not None:
            keyframe = remembered(keyframe, memory)
        return self._decode(observation, image_tokens, z, keyframe), keyframe

    def _env_state(self, observation: Observation) -> Tensor:
        """Object poses as z-scores, (B, E)."""
        if observation.env_state is None:
            raise ConfigError("the policy looks at object poses (env_state), given none")
        return self.normalizer.normalize("env_state", observation.env_state)

    def _decode(
        self, observation: Observation, image_tokens: Tensor, z: Tensor | None, keyframe: Tensor | None
    ) -> Tensor:
        """(B, k, d_model) from an observation, what `_see` and `_tell_keyframe` made of it, and z."""
        vectors = [] if z is None else [self.latent_proj(z)]
        qpos = self.normalizer.normalize("qpos", observation.qpos)
        if self.training and self.config.qpos_noise:
            qpos = qpos + self.config.qpos_noise * torch.randn_like(qpos)
        vectors.append(self.qpos_proj(qpos))
        if self.env_state_proj is not None:
            vectors.append(self.env_state_proj(self._env_state(observation)))
        if keyframe is not None:
            vectors.append(self.keyframe_proj(keyframe))
        tokens, position = torch.cat([torch.stack(vectors, dim=1), image_tokens], dim=1), self.vector_position
        if self.vision is not None:
            position = torch.cat([position, self.vision.token_positions()])
        memory = self.encoder(tokens, position)
        return self.decoder(self.query, memory, position)

    def _places(self, decoded: Tensor, keyframe: Tensor) -> Tensor:
        """Where the tools are at each action, (B, k, 6) z-scores, from what is decoded and the keyframe (B, 8).

        An arm's place is a share of its keyframe's, and what the network adds to it: a grasp is then the same sum
        wherever its object lies.
        """
        assert self.place_head is not None
        where = self.normalizer.unnormalize("keyframe", keyframe).unflatten(-1, (2, 4))[..., :3]
        landmark = self.normalizer.normalize("place", where.flatten(1)).unflatten(-1, (2, 3))
        told = self.place_head(decoded).unflatten(-1, (2, 4))  # (B, k, 2, 4)
        return (told[..., :3] + told[..., 3:] * landmark[:, None]).flatten(-2)

    def _check_against_spec(self) -> None:
        if unknown := [name for name in self.cameras if name not in self.spec.cameras]:
            known = ", ".join(self.spec.cameras) or "none"
            raise ConfigError(f"the episodes have no camera {unknown[0]}; they have: {known}")
        if self.uses_env_state and not self.spec.env_state_dim:
            raise ConfigError("--use-env-state needs object poses (env_state), and the episodes have none")
        if not self.cameras and not self.uses_env_state:
            raise ConfigError("the episodes have no cameras: use --use-env-state to learn from object poses")


def masked_l1(prediction: Tensor, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None) -> Tensor:
    """Mean |prediction - target| over the cells that are no padding: (B, k, A), (B, k, A), (B, k) → scalar float32.

    `valid_steps` per sample are those of this batch, or given: see `Batch`.
    """
    valid = rearrange(~is_pad, "b k -> b k 1")
    total = ((prediction - target) * valid).abs().sum()
    steps = valid.sum() if valid_steps is None else valid_steps * len(is_pad)
    return total / (steps * target.shape[-1]).clamp(min=1)


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


def kl_divergence(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ_p, σ_p²)) per dimension, nats; in and out (B, latent_dim).

    With μ_p = 0 and σ_p = 1 that of Kingma and Welling 2014, appendix B.
    """
    ratio = ((mu - prior_mu).square() + logvar.exp()) * (-prior_logvar).exp()
    return (ratio - 1 + prior_logvar - logvar) / 2


def two_layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A small network from and to numbers at the precision of the robot."""
    return nn.Sequential(Float32Linear(inputs, width), nn.ReLU(), Float32Linear(width, outputs))
