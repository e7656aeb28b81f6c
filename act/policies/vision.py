"""From camera frames to tokens: uint8 (B, H, W, 3) in, (B, L, d_model) out, with a position for every token."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import huggingface_hub
import timm
import torch
from einops import rearrange
from huggingface_hub.utils import get_session
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import downsample_conv
from torch import Tensor, nn

from act.errors import ConfigError
from act.policies.transformer import Float32Linear, sinusoid_2d

PROBE_TIMEOUT = 10.0  # s; the hub's own client would retry for a minute before it gives up


class CameraEncoder(nn.Module):
    """Convolutional features of all cameras, projected to d_model and laid side by side as tokens.

    Cameras of one size pass a shared backbone as one batch. Of several cameras each has a learned embedding, since
    their feature maps lie at the same positions.

    Args:
        cameras: name → (height, width).
        d_model: width of a token, a multiple of 4.
        backbones: networks from `make_backbone`: one for all cameras, or one each. Their coarsest map becomes tokens.
        frozen_norm: batch norms keep their statistics and their affine maps, in training mode too.
        keypoints: how many to find in the finest map of each camera; they make one more token each. 0: none.

    Raises:
        ConfigError: a backbone cannot work on frames of a camera's size.
    """

    mean: Tensor
    std: Tensor
    position: Tensor
    camera_of_token: Tensor

    def __init__(
        self,
        cameras: Mapping[str, tuple[int, int]],
        d_model: int,
        backbones: Sequence[nn.Module],
        frozen_norm: bool,
        keypoints: int = 0,
    ):
        super().__init__()
        self.cameras = dict(cameras)
        self.backbones = nn.ModuleList(backbones)
        self.frozen_norms = [m for m in self.backbones.modules() if frozen_norm and isinstance(m, nn.BatchNorm2d)]
        for norm in self.frozen_norms:
            norm.requires_grad_(False)

        names, shared = list(cameras), len(backbones) == 1
        sizes = dict.fromkeys(cameras.values())  # unique, in order
        same_size = [[name for name in names if cameras[name] == size] for size in sizes]
        self.groups = same_size if shared else [[name] for name in names]  # the cameras of each backbone call
        self.backbone_of_group = [0 if shared else i for i in range(len(self.groups))]

        channels, positions, owners = [], [], []
        self.grids: dict[str, tuple[int, int]] = {}  # camera → rows and columns of its tokens, in the tokens' order
        for i, group in zip(self.backbone_of_group, self.groups, strict=True):
            (fine, *_), (c, h, w) = feature_map_shapes(backbones[i], cameras[group[0]])
            channels.append((fine, c))
            positions += [sinusoid_2d(h, w, d_model)] * len(group)
            owners += [name for name in group for _ in range(h * w)]
            self.grids |= dict.fromkeys(group, (h, w))
        channels = channels[: len(backbones)]
        self.projections = nn.ModuleList(nn.Linear(c, d_model) for _, c in channels)
        self.keypoints = nn.ModuleList(Keypoints(c, keypoints, d_model) for c, _ in channels if keypoints)
        if keypoints:
            owners += [name for group in self.groups for name in group]
            positions.append(torch.zeros(len(names), d_model))
        self.camera_embedding = nn.Embedding(len(names), d_model) if len(names) > 1 or keypoints else None
        self._constant("position", torch.cat(positions))  # (L, d_model)
        self._constant("camera_of_token", torch.tensor([names.index(owner) for owner in owners]))  # (L,)
        self._constant("mean", 255 * torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None])
        self._constant("std", 255 * torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None])
        self.train()

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def train(self, mode: bool = True) -> "CameraEncoder":
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def token_positions(self) -> Tensor:
        """(L, d_model): where each token lies, and in which camera."""
        if self.camera_embedding is None:
            return self.position
        return self.position + self.camera_embedding(self.camera_of_token)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """camera → (B, H, W, 3) uint8 becomes tokens (B, L, d_model); those of the keypoints come last.

        Raises:
            ConfigError: a camera is missing, or its frames have another size than the policy was built for.
        """
        tokens, points = [], []
        for i, group, maps in self._maps(images):
            flat = rearrange(maps[-1], "(n b) c h w -> b (n h w) c", n=len(group))
            tokens.append(self.projections[i](flat))
            if self.keypoints:
                points.append(rearrange(self.keypoints[i](maps[0]), "(n b) d -> b n d", n=len(group)))
        return torch.cat(tokens + points, dim=1)

    def find_keypoints(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """camera → (B, K, 2) places x, y of the keypoints, from -1 to 1 across the frame; empty without keypoints."""
        found = {}
        for i, group, maps in self._maps(images) if self.keypoints else ():
            keypoints: Any = self.keypoints[i]
            places = rearrange(keypoints.find(maps[0]), "(n b) (yx k) -> n b k yx", n=len(group), yx=2)
            found |= dict(zip(group, places.flip(-1), strict=True))
        return found

    def as_maps(self, values: Tensor) -> dict[str, Tensor]:
        """One value a token, (B, L), to camera → (B, h, w); those of the keypoints are left out."""
        maps, start = {}, 0
        for name, (h, w) in self.grids.items():
            maps[name] = values[:, start : start + h * w].unflatten(1, (h, w))
            start += h * w
        return maps

    def _maps(self, images: Mapping[str, Tensor]) -> list[tuple[int, list[str], list[Tensor]]]:
        """For each call of a backbone: its number, its n cameras, and feature maps [(n · B, C, h, w), …]."""
        self._check(images)
        found = []
        for i, group in zip(self.backbone_of_group, self.groups, strict=True):
            frames = torch.cat([images[name] for name in group])
            # Frames are (H, W, 3) in memory, so this view is channels-last as it stands and convolutions are fastest.
            x = (rearrange(frames, "nb h w c -> nb c h w").float() - self.mean) / self.std
            found.append((i, group, self.backbones[i](x)))
        return found

    def _check(self, images: Mapping[str, Tensor]) -> None:
        for name, (height, width) in self.cameras.items():
            if name not in images:
                raise ConfigError(f"the policy looks at camera {name}, given only: {', '.join(images) or 'none'}")
            if images[name].shape[1:] != (height, width, 3):
                given = tuple(images[name].shape)
                raise ConfigError(f"frames of camera {name} are {given}, the policy needs (B, {height}, {width}, 3)")


class Keypoints(nn.Module):
    """Where things are, as numbers: the mean coordinates of K learned heat maps, in one token.

    Spatial soft-argmax (Levine et al. 2016, arXiv 1504.00702, section 5.2). The coordinates move with an object by
    construction, so a few dozen demonstrations teach all the places in between.
    """

    def __init__(self, channels: int, keypoints: int, d_model: int):
        super().__init__()
        self.heat = nn.Conv2d(channels, keypoints, 1)
        # Maps that start flat put every keypoint in the middle of the picture, from where it learns slowly.
        nn.init.normal_(self.heat.weight, std=3 / channels**0.5)
        self.project = Float32Linear(2 * keypoints, d_model)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) → (B, d_model)."""
        return self.project(self.find(features))

    def find(self, features: Tensor) -> Tensor:
        """(B, C, h, w) → coordinates from -1 to 1: all y, then all x, (B, 2 K)."""
        height, width = features.shape[-2:]
        heat = rearrange(self.heat(features).float(), "b k h w -> b k (h w)").softmax(dim=-1)
        heat = rearrange(heat, "b k (h w) -> b k h w", h=height)
        y, x = (torch.linspace(-1, 1, n, device=heat.device) for n in (height, width))
        return torch.cat([heat.sum(dim=-1) @ y, heat.sum(dim=-2) @ x], dim=-1)


def make_backbone(
    name: str,
    weights: Literal["imagenet", "none"],
    *,
    strides: Sequence[int],
    width: float = 1.0,
    pretrained: bool = True,
) -> nn.Module:
    """A timm network cut off after its last map: (B, 3, H, W) → [(B, C, about H / stride, about W / stride), …].

    Args:
        name: a timm model.
        weights: "imagenet" pretrained, or "none".
        strides: of the feature maps wanted, finest first; later layers are not built.
        width: multiplies the channels of a ResNet.
        pretrained: False leaves the "imagenet" weights to a checkpoint, so that nothing is downloaded.

    Raises:
        ConfigError: a setting that this network does not have, or weights that cannot be downloaded.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18", "resnet34", "resnet50"]
        raise ConfigError(f"unknown backbone {name!r}; timm has {', '.join(close)} and many more")
    settings: dict[str, Any] = {"features_only": True}
    if width != 1:
        settings["channels"] = tuple(max(8, round(n * width)) for n in (64, 128, 256, 512))
        settings["stem_width"] = settings["channels"][0] // 2  # of stems made of three convolutions
    try:
        with torch.device("meta"):  # only to learn which feature maps there are
            net: Any = timm.create_model(name, **settings)
        known = net.feature_info.reduction()
    except (TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"backbone {name} with width {width:g} gives no feature maps ({reason})") from error
    for stride in strides:
        if stride not in known:
            has = ", ".join(str(s) for s in known)
            raise ConfigError(f"backbone {name} has no feature map at stride {stride}; it has {has}")
    settings["out_indices"] = tuple(known.index(stride) for stride in strides)
    download = pretrained and weights == "imagenet"
    net = _pretrained(name, settings) if download else timm.create_model(name, **settings)
    if width < 1 and isinstance(net.conv1, nn.Conv2d):
        _narrow_stem(net, settings["channels"][0])
    return net.to(memory_format=torch.channels_last)


def feature_map_shapes(backbone: nn.Module, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(C, h, w) of the finest and of the coarsest features of a frame of `size` (height, width), tried on a blank one.

    Raises:
        ConfigError: the network cannot work on this size, or does not answer with maps.
    """
    mode = backbone.training
    try:
        with torch.no_grad():
            maps = backbone.eval()(torch.zeros(1, 3, *size))
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the backbone cannot work on {size[0]}x{size[1]} frames ({reason}); try resnet18") from error
    info: Any = backbone.feature_info
    if [features.shape[1] for features in maps] != info.channels():
        raise ConfigError("the backbone gives its features in another order than (C, h, w); try resnet18")
    backbone.train(mode)
    return [tuple(maps[i].shape[1:]) for i in (0, -1)]


def _narrow_stem(net: Any, channels: int) -> None:
    """Keeps the first channels of the 7 × 7 stem, whose 64 timm does not scale: the dearest layer of a small net."""
    stem, block = net.conv1, net.layer1[0]
    stem.weight = nn.Parameter(stem.weight.detach()[:channels].clone())
    stem.out_channels = block.conv1.in_channels = channels
    net.bn1 = nn.BatchNorm2d(channels)
    block.conv1.weight = nn.Parameter(block.conv1.weight.detach()[:, :channels].clone())
    out = getattr(block, "conv3", block.conv2).out_channels
    block.downsample = None if out == channels else downsample_conv(channels, out, kernel_size=1)


def _pretrained(name: str, settings: dict[str, Any]) -> Any:
    """The network with ImageNet weights, from the hub's cache or else from the hub."""
    hint = "use --backbone-weights none to train it from scratch"
    card = timm.get_pretrained_cfg(name)
    if card is None or card.hf_hub_id is None:
        raise ConfigError(f"backbone {name} has no pretrained weights; {hint}")
    try:
        file = huggingface_hub.try_to_load_from_cache(card.hf_hub_id, "model.safetensors")
        if not isinstance(file, str):
            _probe(card.hf_hub_id)
        overlay = {"file": file} if isinstance(file, str) else {}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings)
    except Exception as error:  # the hub's client, the file system and timm each raise their own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"cannot get the ImageNet weights of {name} ({reason}); {hint}") from error


def _probe(hub_id: str) -> None:
    """Fails at once where the hub does not answer."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set and the weights are not in the cache")
    get_session().head(f"{huggingface_hub.constants.ENDPOINT}/{hub_id}", timeout=PROBE_TIMEOUT)
