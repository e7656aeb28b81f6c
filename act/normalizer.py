"""Z-scores kept as buffers inside the policy: they are stored with its weights, so there is no statistics file to lose.

z = (x - normalizer.qpos_mean) / normalizer.qpos_std
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from act.errors import ConfigError
from act.targets import MIN_STD


class Normalizer(nn.Module):
    """Mean and standard deviation of named vectors: 0 and 1 until `fit`.

    Args:
        dims: length of each vector by name, for example `{"qpos": 14, "env_state": 7}`.
    """

    qpos_mean: Tensor
    qpos_std: Tensor
    env_state_mean: Tensor
    env_state_std: Tensor
    keyframe_mean: Tensor
    keyframe_std: Tensor
    action_mean: Tensor
    action_std: Tensor
    ee_position_mean: Tensor
    ee_position_std: Tensor

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
            self.get_buffer(f"{key}_mean").copy_(torch.from_numpy(mean))
            self.get_buffer(f"{key}_std").copy_(torch.from_numpy(np.maximum(std, MIN_STD)))
