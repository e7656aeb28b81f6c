"""Camera frames of a dataset: read from the files, decoded into memory, or encoded once by a frozen backbone."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from act.device import free_memory
from act.policies.policy import Policy
from act.timeline import TimeLine
from demos.episode import Episode

ENCODED_AT_ONCE = 16  # frames: few enough for the processor's caches


class Frames:
    """The frames of every step on a time line.

    Args:
        episodes: opened with the cameras of `sizes`.
        sizes: camera → (height, width).
        timeline: the steps of the episodes.

    Attributes:
        images: camera → (S, H, W, 3) uint8 RGB; None until `cache`: frames are read from the files.
        features: camera → (S, F) float16, in place of its images after `encode`.
    """

    def __init__(self, episodes: Sequence[Episode], sizes: Mapping[str, tuple[int, int]], timeline: TimeLine):
        self.episodes, self.sizes, self.timeline = episodes, dict(sizes), timeline
        self.images: dict[str, Tensor] | None = None
        self.features: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all frames, decoded."""
        return len(self.timeline) * sum(3 * height * width for height, width in self.sizes.values())

    def cache(self, home: torch.device) -> None:
        """Decodes all frames into memory on `home`."""
        shapes = {name: (len(self.timeline), *size, 3) for name, size in self.sizes.items()}
        images = {name: torch.empty(shape, dtype=torch.uint8, device=home) for name, shape in shapes.items()}

        def read(episode: Episode, steps: np.ndarray, first: int) -> None:
            with episode:
                for name in self.sizes:
                    images[name][first : first + len(steps)] = torch.from_numpy(episode.frames(name)[steps])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(read, self.episodes, self.timeline.kept, self.timeline.first.tolist())
            for _ in tqdm(done, "decoding frames", len(self.episodes), disable=None, leave=False):
                pass
        self.images = images

    def encode(self, policy: Policy, device: torch.device, home: torch.device, seed: int) -> str:
        """Replaces cached images by the features that the policy's frozen backbone makes of them.

        Does nothing, and returns "", where images are not cached or the policy trains its backbone. Where the memory
        does not suffice, says so and leaves the images.

        Args:
            policy: see `Policy.encode_frames`.
            device: where to compute.
            home: where the features are kept.
            seed: of the augmentation.

        Returns:
            What was done, in words.
        """
        if self.images is None or not self.sizes:
            return ""
        policy, steps, size = policy.to(device), len(self.timeline), 0
        for name in self.sizes:
            row = policy.encode_frames(name, self.images[name][:1].to(device))
            if row is None:
                return ""
            size += row.numel() * row.element_size() * steps
        free = free_memory(home)
        if size > min((free + self.nbytes) / 2, 0.8 * free):  # the images are freed only in the end
            return f"features of all frames would take {size / 1e9:.2f} GB: they are computed in every step instead"
        generator = torch.Generator().manual_seed(seed)
        bar = tqdm(total=len(self.sizes) * steps, desc="encoding frames", unit="frame", disable=None, leave=False)
        with bar:
            for name in self.sizes:
                for start in range(0, steps, ENCODED_AT_ONCE):
                    images = self.images[name][start : start + ENCODED_AT_ONCE]
                    rows = policy.encode_frames(name, images.to(device), generator)
                    assert rows is not None
                    if name not in self.features:
                        self.features[name] = torch.empty(steps, rows.shape[1], dtype=rows.dtype, device=home)
                    self.features[name][start : start + len(rows)] = rows
                    bar.update(len(rows))
                del self.images[name]
        return f"{size / 1e9:.2f} GB of features, which training does not change, take the place of the frames"

    def read(self, places: Tensor) -> dict[str, Tensor]:
        """Images (B, H, W, 3) of each camera at places (B,) of the time line, from the files."""
        where = [(self.episodes[n], step) for n, step in self.timeline.locate(places)]
        return {
            name: torch.from_numpy(np.stack([episode.frame(name, step) for episode, step in where]))
            for name in self.sizes
        }


def place_for(where: str, size: int, device: torch.device, sharers: int) -> torch.device | None:
    """Where `size` bytes of frames are kept; None: in the files.

    Args:
        where: "device", "ram", "none", or "auto": the first of device (CUDA only) and ram where the frames take at
            most half of the free memory.
        device: the training device.
        sharers: processes on this machine that do the same, each with a share of its memory.
    """
    cpu = torch.device("cpu")
    if where == "auto":
        places = {"device": device, "ram": cpu} if device.type == "cuda" else {"ram": cpu}
        free = {"device": 1, "ram": sharers}
        where = next((name for name, home in places.items() if size <= free_memory(home) / free[name] / 2), "none")
    return {"device": device, "ram": cpu, "none": None}[where]
