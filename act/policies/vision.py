"""From camera frames to tokens: uint8 (B, H, W, 3) in, (B, L, d_model) out, with a position for every token."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal
from urllib.request import Request, urlopen

import huggingface_hub
import timm
import torch
from einops import rearrange
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from act.errors import ConfigError
from act.policies.transformer import sinusoid_2d

PROBE_TIMEOUT = 10.0  # s; the hub's own client would retry for a minute before it gives up


class CameraEncoder(nn.Module):
    """Convolutional features of all cameras, projected to d_model and laid side by side as tokens.

    Cameras of one size pass a shared backbone as one batch. Of several cameras each has a learned embedding, since
    their feature maps lie at the same positions.

    Args:
        cameras: name → (height, width).
        d_model: width of a token, a multiple of 4.
        shared: one backbone for all cameras, or one each.
        backbone: the settings of `make_backbone`.
        pretrained: False builds the same network without its weights, to be filled in from a checkpoint.
    """

    mean: Tensor
    std: Tensor
    position: Tensor
    camera_of_token: Tensor

    def __init__(
        self,
        cameras: Mapping[str, tuple[int, int]],
        d_model: int,
        *,
        shared: bool,
        backbone: Mapping[str, Any],
        pretrained: bool,
    ):
        super().__init__()
        self.cameras = dict(cameras)
        sizes = dict.fromkeys(self.cameras.values())  # unique, in order
        by_size = [[name for name in self.cameras if self.cameras[name] == size] for size in sizes]
        self.groups = by_size if shared else [[name] for name in self.cameras]  # cameras of one backbone call
        self.backbones = nn.ModuleList(
            make_backbone(**backbone, pretrained=pretrained) for _ in range(1 if shared else len(self.cameras))
        )
        self.projections = nn.ModuleList(nn.Linear(net.feature_info.channels()[0], d_model) for net in self.backbones)
        self.frozen_norms = _batch_norms(self.backbones) if backbone["weights"] == "imagenet" else []
        for norm in self.frozen_norms:
            norm.requires_grad_(False)
        self.camera_embedding = nn.Embedding(len(self.cameras), d_model) if len(self.cameras) > 1 else None
        self._add_buffers(d_model)

    def _add_buffers(self, d_model: int) -> None:
        def constant(name: str, value: Tensor) -> None:
            self.register_buffer(name, value, persistent=False)

        constant("mean", 255 * torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None])
        constant("std", 255 * torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None])
        positions, owners = [], []
        self.eval()  # a blank frame tells how large the feature map is; it must not touch running statistics
        for i, group in enumerate(self.groups):
            blank = torch.zeros(1, *self.cameras[group[0]], 3, dtype=torch.uint8)
            with torch.no_grad():
                height, width = self._features(i, blank).shape[-2:]
            for name in group:
                positions.append(sinusoid_2d(height, width, d_model))
                owners += [list(self.cameras).index(name)] * (height * width)
        self.train()
        constant("position", torch.cat(positions))  # (L, d_model)
        constant("camera_of_token", torch.tensor(owners))  # (L,)

    def train(self, mode: bool = True) -> "CameraEncoder":
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(self, images: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """camera → (B, H, W, 3) uint8 becomes tokens (B, L, d_model) and their positions (L, d_model).

        Raises:
            ConfigError: a camera is missing, or its frames have another size than the policy was built for.
        """
        for name, size in self.cameras.items():
            if name not in images:
                raise ConfigError(f"the policy looks at camera {name}, given only: {', '.join(images) or 'none'}")
            if images[name].shape[1:] != (*size, 3):
                height, width = size
                given = tuple(images[name].shape)
                raise ConfigError(f"camera {name} has shape {given}, the policy needs (B, {height}, {width}, 3)")
        tokens = []
        for i, group in enumerate(self.groups):
            frames = torch.cat([images[name] for name in group])
            features = rearrange(self._features(i, frames), "(n b) c h w -> b (n h w) c", n=len(group))
            tokens.append(self.projections[i % len(self.projections)](features))
        position = self.position
        if self.camera_embedding is not None:
            position = position + self.camera_embedding(self.camera_of_token)
        return torch.cat(tokens, dim=1), position

    def _features(self, group: int, frames: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) → (B, C, h, w). The permuted view of (H, W, 3) frames is channels-last without a copy."""
        x = (rearrange(frames, "b h w c -> b c h w").float() - self.mean) / self.std
        return self.backbones[group % len(self.backbones)](x)[0]


def make_backbone(name: str, weights: Literal["imagenet", "none"], width: float, stride: int, pretrained: bool) -> Any:
    """A timm network cut off after the feature map at `stride`: (B, 3, H, W) → [(B, C, about H / stride, W / stride)].

    Args:
        name: a timm model.
        weights: "imagenet" pretrained, or "none".
        width: multiplies the channels of a ResNet.
        stride: of the feature map to use; later layers are not built.
        pretrained: False leaves the "imagenet" weights to a checkpoint.

    Raises:
        ConfigError: a setting this network does not have, or weights that cannot be downloaded.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18", "resnet34", "resnet50"]
        raise ConfigError(f"unknown backbone {name!r}; close to it or usual: {', '.join(close)}")
    settings: dict[str, Any] = {"features_only": True}
    if width != 1:
        settings["channels"] = tuple(max(8, round(n * width)) for n in (64, 128, 256, 512))
    try:
        with torch.device("meta"):  # only to learn which feature maps there are
            strides = timm.create_model(name, **settings).feature_info.reduction()
    except (TypeError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"backbone {name} with width {width:g} cannot give feature maps: {reason}") from error
    if stride not in strides:
        known = ", ".join(str(s) for s in strides)
        raise ConfigError(f"backbone {name} has no feature map at stride {stride}; it has {known}")
    settings["out_indices"] = (strides.index(stride),)
    download = pretrained and weights == "imagenet"
    net = _pretrained(name, settings) if download else timm.create_model(name, **settings)
    return net.to(memory_format=torch.channels_last)


def _pretrained(name: str, settings: dict[str, Any]) -> Any:
    hint = "use --backbone-weights none to train it from scratch"
    hub_id = (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).hf_hub_id
    if hub_id is None:
        raise ConfigError(f"backbone {name} has no pretrained weights; {hint}")
    cached = huggingface_hub.try_to_load_from_cache(hub_id, "model.safetensors")
    try:
        if isinstance(cached, str):
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": cached}, **settings)
        _probe(hub_id)
        return timm.create_model(name, pretrained=True, **settings)
    except Exception as error:  # the hub's client, urllib, the file system and timm each raise their own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"cannot get the ImageNet weights of {name} ({reason}); {hint}") from error


def _probe(hub_id: str) -> None:
    """Fails at once where the hub cannot be reached."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set and the weights are not in the cache")
    page = f"{huggingface_hub.constants.ENDPOINT}/{hub_id}/resolve/main/config.json"
    urlopen(Request(page, method="HEAD"), timeout=PROBE_TIMEOUT).close()


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
