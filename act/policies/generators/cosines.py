"""Chunks as cosines: the orthonormal discrete cosine transform along time, lowest frequency first."""

import math

import torch
from torch import Tensor


def cosines(k: int, n: int) -> Tensor:
    """(n, k), the lowest of k orthonormal cosines (DCT-II). `cosines @ x` are coefficients, the transpose goes back."""
    angles = math.pi / k * torch.arange(n)[:, None] * (torch.arange(k) + 0.5)
    basis = (2 / k) ** 0.5 * angles.cos()
    basis[0] /= 2**0.5
    return basis
