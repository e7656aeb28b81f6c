"""Z-scores kept as buffers inside the policy: they travel in its weights, so there is no statistics file to lose."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from act.errors import ConfigError
from act.targets import MIN_STD


class Normalizer(nn.Module):
    """Normalises named vectors to zero mean and unit standard deviation; the identity until `fit`.

    Args:
        dims: vector length by name, for example `{"qpos": 14, "action": 14}`.
    """

    def __init__(self, dims: Mapping[str, int]):
        super().__init__()
        self.dims = dict(dims)
        for key, dim in self.dims.items():
            self.register_buffer(f"{key}_mean", torch.zeros(dim))
            self.register_buffer(f"{key}_std", torch.ones(dim))

    def fit(self, stats: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
        """Takes (mean, std) of every name, physical units, each (dim,); std is clipped from below at `MIN_STD`.

        Raises:
            ConfigError: a name is missing, a shape is wrong or a value is not finite.
        """
        for key, dim in self.dims.items():
            if key not in stats:
                raise ConfigError(f"no statistics of {key!r}: given {sorted(stats)}, needed {sorted(self.dims)}")
            mean, std = (np.asarray(value, np.float32) for value in stats[key])
            if mean.shape != (dim,) or std.shape != (dim,):
                raise ConfigError(f"statistics of {key!r} have shapes {mean.shape} and {std.shape}, needed ({dim},)")
            if not (np.isfinite(mean).all() and np.isfinite(std).all()):
                raise ConfigError(f"statistics of {key!r} are not finite: check the demonstrations for NaN")
            self._buffer(key, "mean").copy_(torch.from_numpy(mean))
            self._buffer(key, "std").copy_(torch.from_numpy(np.maximum(std, MIN_STD)))

    def normalize(self, key: str, x: Tensor) -> Tensor:
        """(..., dim) physical units → (..., dim) z-scores."""
        return (x - self._buffer(key, "mean")) / self._buffer(key, "std")

    def unnormalize(self, key: str, x: Tensor) -> Tensor:
        """(..., dim) z-scores → (..., dim) physical units."""
        return x * self._buffer(key, "std") + self._buffer(key, "mean")

    def _buffer(self, key: str, moment: str) -> Tensor:
        return self.get_buffer(f"{key}_{moment}")
