"""From camera frames to tokens: uint8 (B, H, W, 3) in, (B, L, d_model) out, with a position for every token.

frames → backbone → coarsest map → projection → map tokens
                  → finest map (or all maps of a frozen backbone, merged) → keypoints → one token a camera
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from act.errors import ConfigError
from act.policies.backbones import feature_map_shapes
from act.policies.transformer import sinusoid_2d


class CameraEncoder(nn.Module):
    """Features of all cameras as tokens.

    Cameras of one size pass a shared backbone as one batch. Several cameras have a learned embedding each, since their
    feature maps lie at the same positions.

    Args:
        cameras: name → (height, width).
        d_model: width of a token, a multiple of 4.
        backbones: networks from `make_backbone`: one for all cameras, or one each. Their coarsest map becomes tokens.
        frozen_norm: batch norms keep their statistics and their affine maps, in training mode too.
        keypoints: keypoints in the finest map of each camera, which make one more token; 0: none.
        frozen: the backbones are never trained. All their maps, merged by a small trained network (`MergedMaps`), take
            the place of the finest one, and their features may be computed once (`encode`).
        map_tokens: cells of the coarsest map are tokens.
        shift: training shifts the frames of a frozen backbone at random, by up to so many pixels either way; in
            rollouts every query has a shift of its own, which averages over the grid of pixels.
        condition: length of the vector that conditions the keypoints, see `Keypoints`; 0: none.

    Raises:
        ConfigError: a backbone cannot work on frames of a camera's size.
    """

    mean: Tensor
    std: Tensor
    position: Tensor
    camera_of_token: Tensor
    shift_of_query: Tensor

    def __init__(
        self,
        cameras: Mapping[str, tuple[int, int]],
        d_model: int,
        backbones: Sequence[nn.Module],
        frozen_norm: bool,
        keypoints: int = 0,
        frozen: bool = False,
        map_tokens: bool = True,
        shift: int = 0,
        condition: int = 0,
    ):
        super().__init__()
        self.cameras, self.frozen, self.shift = dict(cameras), frozen, shift
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
            Keypoints(c, keypoints, d_model, sharpness=5.0 if frozen else 3.0, condition=condition)
            for c in finest
            if keypoints
        )
        if keypoints:
            owners += [name for group in self.groups for name in group]
            positions.append(torch.zeros(len(names), d_model))
        self.camera_embedding = nn.Embedding(len(names), d_model) if len(names) > 1 or keypoints else None
        self._constant("shift_of_query", _spread(16, shift))  # (16, 2) pixels
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
        """(L, d_model): each token's place in its map, and its camera."""
        if self.camera_embedding is None:
            return self.position
        return self.position + self.camera_embedding(self.camera_of_token)

    def forward(
        self,
        images: Mapping[str, Tensor],
        features: Mapping[str, Tensor] | None = None,
        query: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """camera → (B, H, W, 3) uint8 becomes tokens (B, L, d_model); those of the keypoints come last.

        Args:
            features: camera → rows of `encode`; it needs no image then.
            query: () int64, in rollouts the number of this query.
            condition: (B, D), see `Keypoints`.

        Raises:
            ConfigError: a camera is missing, or its frames have another size than the policy was built for.
        """
        tokens, points = [], []
        for i, group, maps, shifts in self._maps(images, features or {}, query):
            if self.projections:
                flat = rearrange(maps[-1], "(n b) c h w -> b (n h w) c", n=len(group))
                tokens.append(self.projections[i](flat))
            if self.keypoints:
                found = self.keypoints[i](maps[0], self._as_coordinates(shifts, group, maps[0]), condition)
                points.append(rearrange(found, "(n b) d -> b n d", n=len(group)))
        return torch.cat(tokens + points, dim=1)

    def find_keypoints(self, images: Mapping[str, Tensor], condition: Tensor | None = None) -> dict[str, Tensor]:
        """camera → (B, K, 2) places x, y of the keypoints, from -1 to 1 across the frame; empty without keypoints."""
        found = {}
        for i, group, maps, _ in self._maps(images) if self.keypoints else ():
            keypoints: Any = self.keypoints[i]
            places = rearrange(keypoints.find(maps[0], condition), "(n b) (yx k) -> n b k yx", n=len(group), yx=2)
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
    def encode(self, camera: str, frames: Tensor, shifts: Tensor | None = None) -> Tensor:
        """All maps that a frozen backbone makes of frames (B, H, W, 3), as rows (B, F) of float16 numbers.

        The last two of a row are by how many pixels its frame was shifted, downwards and to the right: `shifts` (B, 2).
        """
        i = next(i for i, group in zip(self.backbone_of_group, self.groups, strict=True) if camera in group)
        if shifts is None:
            shifts = torch.zeros(len(frames), 2, device=frames.device)
        else:
            frames = shifted(frames, shifts)
        maps = self.backbones[i](self._normalize(frames))
        return torch.cat([*(each.flatten(1) for each in maps), shifts], dim=1).half()

    def draw_shifts(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, 2) pixels, at random."""
        return torch.randint(-self.shift, self.shift + 1, (n, 2), generator=generator)

    def _as_coordinates(self, shifts: Tensor | None, group: Sequence[str], fine: Tensor) -> Tensor | None:
        """Shifts in pixels as shifts of keypoints, whose places are those in the frame as it was."""
        if shifts is None:
            return None
        sizes = zip(self.cameras[group[0]], fine.shape[-2:], strict=True)
        pixel = [2 / (max(cells - 1, 1) * round(size / cells)) for size, cells in sizes]  # cells' centres: -1 to 1
        return torch.stack([by * each for by, each in zip(shifts.unbind(1), pixel, strict=True)], dim=1)

    def _normalize(self, frames: Tensor) -> Tensor:
        # Frames are (H, W, 3) in memory, so this view is channels-last as it stands and convolutions are fastest.
        return (rearrange(frames, "nb h w c -> nb c h w").float() - self.mean) / self.std

    def _maps(
        self, images: Mapping[str, Tensor], features: Mapping[str, Tensor] | None = None, query: Tensor | None = None
    ) -> list[tuple[int, list[str], list[Tensor], Tensor | None]]:
        """For each call of a backbone: its number, its n cameras, feature maps [(n · B, C, h, w), …] and the shifts of
        their frames, (n · B, 2) pixels.
        """
        features = features or {}
        self._check(images, features)
        found = []
        for i, group in zip(self.backbone_of_group, self.groups, strict=True):
            if not self.frozen:
                frames = torch.cat([images[name] for name in group])
                found.append((i, group, self.backbones[i](self._normalize(frames)), None))
                continue
            rows = [
                features[name] if name in features else self._encode_now(name, images[name], query) for name in group
            ]
            # Float before they are joined: autocast on CPUs knows no float16.
            shapes, whole = self.map_shapes[group[0]], torch.cat([row.float() for row in rows])
            *parts, shifts = whole.split([*(math.prod(shape) for shape in shapes), 2], dim=1)
            maps = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
            found.append((i, group, self.merged[i](maps), shifts))
        return found

    def _encode_now(self, camera: str, frames: Tensor, query: Tensor | None) -> Tensor:
        shifts = None
        if self.shift and self.training:
            shifts = self.draw_shifts(len(frames)).to(frames.device)
        elif self.shift and query is not None:
            # Not by indexing, which would wait for the device.
            shifts = self.shift_of_query.index_select(0, query.view(1) % len(self.shift_of_query)).expand(
                len(frames), 2
            )
        return self.encode(camera, frames, shifts)

    def _check(self, images: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> None:
        for name, (height, width) in self.cameras.items():
            if self.frozen and name in features:
                continue
            if name not in images:
                raise ConfigError(f"the policy needs camera {name}, given only: {', '.join(images) or 'none'}")
            if images[name].shape[1:] != (height, width, 3):
                given = tuple(images[name].shape)
                raise ConfigError(f"frames of camera {name} are {given}, the policy needs (B, {height}, {width}, 3)")


class MergedMaps(nn.Module):
    """A frozen backbone's maps merged into one of the finest stride: a small feature pyramid (Lin et al. 2017, arXiv
    1612.03144).

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
            merged = merged + enlarged(lateral(each), size)
        return [self.mix(merged), maps[-1]]


def shifted(frames: Tensor, shifts: Tensor) -> Tensor:
    """Frames (B, H, W, 3), each moved by its own pixels (B, 2) downwards and to the right; edges are repeated."""
    rows, columns = (
        (torch.arange(size, device=frames.device) - by[:, None]).clamp(0, size - 1)
        for size, by in zip(frames.shape[1:3], shifts.unbind(1), strict=True)
    )
    of_batch = torch.arange(len(frames), device=frames.device)[:, None, None]
    return frames[of_batch, rows[:, :, None], columns[:, None, :]]


def _spread(n: int, size: int) -> Tensor:
    """(n, 2) whole numbers from -size to size, evenly spread from the first one on, which is 0 (an additive recurrence
    with the plastic number: http://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/).
    """
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    points = (0.5 + torch.arange(n)[:, None] * steps) % 1 - 0.5
    return (2 * size * points).round().long()


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of maps (B, C, h, w) to a size, as two matrix products: a third of the time on a CPU."""
    weights = [
        F.interpolate(torch.eye(old, device=maps.device)[None, None], (new, old), mode="bilinear")[0, 0]
        for old, new in zip(maps.shape[-2:], size, strict=True)
    ]
    down, across = (each.to(maps.dtype) for each in weights)  # (H, h), (W, w)
    return down @ (maps @ across.T)


class Keypoints(nn.Module):
    """The mean coordinates of K learned heat maps, in one token: spatial soft-argmax (Levine et al. 2016, arXiv
    1504.00702, section 5.2). The coordinates move with an object by construction.

    Args:
        condition: length of the vector that scales the channels first; 0: none. This is FiLM (Perez et al. 2018, arXiv
            1709.07871) without its shift, which does not change a softmax over places.
    """

    def __init__(self, channels: int, keypoints: int, d_model: int, sharpness: float = 3.0, condition: int = 0):
        super().__init__()
        self.film = nn.Linear(condition, channels) if condition else None
        if self.film is not None:  # at first nothing is scaled
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)
        self.heat = nn.Conv2d(channels, keypoints, 1, bias=not condition)  # nor does a bias change a softmax
        # Maps that start flat put every keypoint in the middle of the picture, from where it learns slowly.
        nn.init.normal_(self.heat.weight, std=sharpness / channels**0.5)
        self.project = nn.Linear(2 * keypoints, d_model)

    def forward(self, features: Tensor, shifts: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """(B, C, h, w) → (B, d_model); `shifts` (B, 2), by which the frame was moved in y and x, is subtracted."""
        found = self.find(features, condition)
        if shifts is not None:
            found = found - shifts.repeat_interleave(found.shape[1] // 2, dim=1)
        with torch.autocast(found.device.type, enabled=False):
            return self.project(found)

    def find(self, features: Tensor, condition: Tensor | None = None) -> Tensor:
        """(n · B, C, h, w) and (B, D) → coordinates from -1 to 1: all y, then all x, (n · B, 2 K)."""
        height, width = features.shape[-2:]
        if self.film is None:
            heat = rearrange(self.heat(features), "b k h w -> b k (h w)")
        else:
            assert condition is not None
            with torch.autocast(condition.device.type, enabled=False):
                scale = (1 + self.film(condition.float())).repeat(len(features) // len(condition), 1)
            heat = (self.heat.weight.flatten(1) * scale[:, None]) @ features.flatten(2)  # cheaper than scaled maps
        heat = heat.float().softmax(dim=-1)
        heat = rearrange(heat, "b k (h w) -> b k h w", h=height)
        y, x = (torch.linspace(-1, 1, n, device=heat.device) for n in (height, width))
        return torch.cat([heat.sum(dim=-1) @ y, heat.sum(dim=-2) @ x], dim=-1)
