"""Transformer encoder and decoder as in DETR (Carion et al. 2020, arXiv 2005.12872), which ACT builds on.

    ChunkTransformer   observation → tokens → encoder → memory;  k queries → decoder → (B, k, d_model)
    Encoder, Decoder   layers of Attention and feed-forward
    sinusoids          fixed positions

Positions are added to queries and keys in every layer, never to values. Tensors are (B, L, D): batch, tokens, d_model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from act.policies.config import PolicyConfig

if TYPE_CHECKING:
    from act.policies.observation import EncodedObservation


class ChunkTransformer(nn.Module):
    """ACT's transformer, the same for all generators.

    Args:
        dims: length of each vector of the observation that becomes a token: qpos, and perhaps env_state and keyframe.
        own_tokens: tokens that the generator puts before those of the observation.
        more_queries: queries beyond those of the chunk's k steps.
    """

    def __init__(self, config: PolicyConfig, dims: Mapping[str, int], own_tokens: int = 0, more_queries: int = 0):
        super().__init__()
        d, shape = config.transformer.d_model, config.transformer.layer
        self.qpos_noise = config.qpos_noise
        self.proj = nn.ModuleDict({name: Float32Linear(dim, d) for name, dim in dims.items()})
        self.n_vectors = own_tokens + len(dims) + (config.language is not None)
        self.vector_position = nn.Parameter(torch.randn(self.n_vectors, d))
        self.encoder = Encoder(config.transformer.n_encoder_layers, *shape)
        self.query = nn.Parameter(torch.randn(config.chunk_size + more_queries, d))
        self.decoder = Decoder(config.transformer.n_decoder_layers, *shape)

    def encode(self, encoded: "EncodedObservation", own: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """The memory (B, L, d_model) that the decoder attends to, and its positions (L, d_model).

        Args:
            own: the generator's tokens (B, d_model), as many as it announced.
        """
        vectors = encoded.vectors | {}
        if self.training and self.qpos_noise:
            vectors["qpos"] = vectors["qpos"] + self.qpos_noise * torch.randn_like(vectors["qpos"])
        tokens = [*own, *(proj(vectors[name]) for name, proj in self.proj.items())]
        tokens += [] if encoded.instruction is None else [encoded.instruction]
        tokens, position = torch.cat([torch.stack(tokens, dim=1), encoded.image_tokens], dim=1), self.vector_position
        if encoded.image_position is not None:
            position = torch.cat([position, encoded.image_position])
        return self.encoder(tokens, position), position

    def decode(self, memory: tuple[Tensor, Tensor], x: Tensor | None = None) -> Tensor:
        """(B, queries, d_model) from what `encode` returned; x: see `Decoder`."""
        return self.decoder(self.query, *memory, x)


class Float32Linear(nn.Linear):
    """A linear layer that autocast leaves in float32, for numbers at the precision of the robot."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class Attention(nn.Module):
    """Multi-head attention; xavier-uniform weights at the scale that torch gives one fused (3D, D) projection."""

    def __init__(self, d_model: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(d_model, d_model) for _ in range(4))
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.out.weight)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query (B, Q, D), key and value (B, K, D), mask broadcastable to (B, heads, Q, K), True where allowed."""
        return self.attend(query, *self.project(key, value), mask)

    def project(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What `attend` needs of keys and values, each (B, heads, K, D / heads)."""
        k, v = self.key(key), self.value(value)
        return tuple(rearrange(x, "b l (h d) -> b h l d", h=self.n_heads) for x in (k, v))  # pyright: ignore

    def attend(self, query: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """`forward` with keys and values that were projected before."""
        q = rearrange(self.query(query), "b l (h d) -> b h l d", h=self.n_heads)
        dropout = self.dropout if self.training else 0.0
        if q.is_cpu:  # the bfloat16 kernel's backward pass is six times slower than the float32 one (torch 2.15)
            with torch.autocast("cpu", enabled=False):
                x = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask, dropout)
        else:
            x = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        return self.out(rearrange(x, "b h l d -> b l (h d)"))

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """How much each query attends to each key, (B, heads, Q, K); rows sum to 1. For pictures."""
        q, k = (
            rearrange(linear(x), "b l (h d) -> b h l d", h=self.n_heads).float()
            for linear, x in ((self.query, query), (self.key, key))
        )
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)


class Residual(nn.Module):
    """x + f(norm(x)) (pre-norm) or norm(x + f(x)) (post-norm), with dropout on f's output."""

    def __init__(self, d_model: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(f(self.norm(x)))
        return self.norm(x + self.dropout(f(x)))


def feed_forward(d_model: int, ffn_dim: int, dropout: float) -> nn.Sequential:
    first, second = nn.Linear(d_model, ffn_dim), nn.Linear(ffn_dim, d_model)
    nn.init.xavier_uniform_(first.weight)
    nn.init.xavier_uniform_(second.weight)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second)


class EncoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, ffn_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.attention = Attention(d_model, n_heads, dropout)
        self.feed_forward = feed_forward(d_model, ffn_dim, dropout)
        self.residual_1, self.residual_2 = (Residual(d_model, dropout, pre_norm) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            query = x + position
            return self.attention(query, query, x, mask)

        return self.residual_2(self.residual_1(x, attend), self.feed_forward)


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int, ffn_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.self_attention = Attention(d_model, n_heads, dropout)
        self.cross_attention = Attention(d_model, n_heads, dropout)
        self.feed_forward = feed_forward(d_model, ffn_dim, dropout)
        self.residual_1, self.residual_2, self.residual_3 = (Residual(d_model, dropout, pre_norm) for _ in range(3))

    def forward(self, x: Tensor, query: Tensor, memory_key: Tensor, memory: Tensor) -> Tensor:
        def attend_to_chunk(x: Tensor) -> Tensor:
            step = x + query
            return self.self_attention(step, step, x)

        def attend_to_memory(x: Tensor) -> Tensor:
            return self.cross_attention(x + query, memory_key, memory)

        x = self.residual_2(self.residual_1(x, attend_to_chunk), attend_to_memory)
        return self.residual_3(x, self.feed_forward)


class Encoder(nn.Module):
    """Self-attention layers over tokens (B, L, D) at positions (L, D); is_pad (B, L) is True for tokens to ignore."""

    def __init__(self, n_layers: int, d_model: int, n_heads: int, ffn_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d_model, n_heads, ffn_dim, dropout, pre_norm) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model) if pre_norm else nn.Identity()  # post-norm layers end in a norm

    def forward(self, x: Tensor, position: Tensor, is_pad: Tensor | None = None) -> Tensor:
        mask = None if is_pad is None else rearrange(~is_pad, "b l -> b 1 1 l")
        for layer in self.layers:
            x = layer(x, position, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """k learned queries (k, D) attend to the memory (B, L, D) at positions (L, D); the output of the LAST layer is
    (B, k, D). The first layer's input is zero, or x (B, k, D).
    """

    def __init__(self, n_layers: int, d_model: int, n_heads: int, ffn_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d_model, n_heads, ffn_dim, dropout, pre_norm) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, query: Tensor, memory: Tensor, position: Tensor, x: Tensor | None = None) -> Tensor:
        memory_key = memory + position
        x = torch.zeros_like(query).expand(len(memory), -1, -1) if x is None else x
        for layer in self.layers:
            x = layer(x, query, memory_key, memory)
        return self.norm(x)


def sinusoid_1d(length: int, dim: int) -> Tensor:
    """Fixed positions (length, dim) of Vaswani et al. 2017, section 3.5: sines in even, cosines in odd places."""
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)  # (length, dim / 2)
    return rearrange([angle.sin(), angle.cos()], "two l d -> l (d two)")


def sinusoid_2d(height: int, width: int, dim: int) -> Tensor:
    """Fixed positions (height · width, dim) of a feature map as in DETR: y in the first half, x in the second.

    Coordinates run over (0, 2π] whatever the map's size ("normalised").
    """
    frequency = 10000 ** -(torch.arange(0, dim // 2, 2) / (dim // 2))  # (dim / 4,)

    def axis(n: int) -> Tensor:
        angle = 2 * math.pi * torch.arange(1, n + 1)[:, None] / n * frequency
        return rearrange([angle.sin(), angle.cos()], "two l d -> l (d two)")  # (n, dim / 2)

    y, x = axis(height)[:, None].expand(-1, width, -1), axis(width).expand(height, -1, -1)
    return rearrange(torch.cat([y, x], dim=-1), "h w d -> (h w) d")


def two_layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A small network in float32."""
    return nn.Sequential(Float32Linear(inputs, width), nn.ReLU(), Float32Linear(width, outputs))
