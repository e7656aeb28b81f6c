"""A chunk as a sentence: numbers in bins are tokens, and a causal transformer tells each from those before it.

Tokens are the leading coefficients of the chunk's cosine transform, lowest frequency first, so that the first ones say
where the chunk goes and later ones how exactly (as in FAST, Pertsch et al. 2025, arXiv 2501.09747, without its byte
pairs), or, with `code` bins, the values at each step one after the other (as RT-1 and RT-2 have it).
The likelihood of a chunk in bins is exact.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act.policies.answering import AnsweringPolicy, Seen
from act.policies.base import Batch, Observation
from act.policies.config import AutoregressiveConfig
from act.policies.seeing import transformer_shape
from act.policies.spectrum import cosines
from act.policies.transformer import Attention, Residual, feed_forward
from demos.spec import EpisodeSpec

Cache = list[tuple[Tensor, Tensor]]
"""Of each layer, keys and values of the tokens so far."""


class AutoregressivePolicy(AnsweringPolicy):
    """See the head of this file."""

    config: AutoregressiveConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    basis: Tensor  # (M, k), rows are what a coefficient stands for

    def __init__(self, config: AutoregressiveConfig, spec: EpisodeSpec, *, pretrained: bool = True):
        super().__init__(config, spec, pretrained=pretrained)
        d, k = config.d_model, config.chunk_size
        basis = torch.eye(k) if config.code == "bins" else cosines(k, min(config.coefficients, k))
        self.register_buffer("basis", basis, persistent=False)
        self.place_in_time = nn.Parameter(torch.randn(len(basis), d))
        self.place_in_action = nn.Parameter(torch.randn(self.chunk_dim, d))
        self.begin = nn.Parameter(torch.randn(d))
        self.embed, self.value_proj = nn.Embedding(config.bins, d), nn.Linear(1, d)
        self.layers = nn.ModuleList(CausalLayer(*transformer_shape(config)) for _ in range(config.n_decoder_layers))
        self.norm, self.logits = nn.LayerNorm(d), nn.Linear(d, config.bins)

    @property
    def length(self) -> int:
        """N, tokens of a chunk."""
        return len(self.basis) * self.chunk_dim

    @property
    def chance_dim(self) -> int:
        return self.length

    def tokens(self, chunk: Tensor) -> Tensor:
        """(B, k, C) → (B, N) int64; what lies beyond the last bin is put into it."""
        values = (self.basis @ chunk / self.config.resolution).round().long() + self.config.bins // 2
        return values.clamp(0, self.config.bins - 1).flatten(1)

    def chunk(self, tokens: Tensor) -> Tensor:
        """(B, N) → (B, k, C), up to what bins and missing coefficients lose."""
        return self.basis.T @ self._values(tokens).view(len(tokens), len(self.basis), -1).float()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "nats"} and perhaps "pose", "keyframe": mean cross entropy of a token, and errors in z-scores."""
        seen = self._look(batch.observation)
        nats = self._nats(self.tokens(self._target(batch)), seen).mean()
        losses = {"nats": nats} | self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe)
        return self._total(losses, nats)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Tensor:
        return -self._nats(self.tokens(self._target(batch)), self._look(batch.observation)).sum(dim=-1)

    def _nats(self, tokens: Tensor, seen: Seen) -> Tensor:
        """Cross entropy of each token, (B, N)."""
        x = torch.cat([self.begin.expand(len(tokens), 1, -1), self._embedded(tokens[:, :-1])], dim=1)
        x = x + self._places_of_tokens()
        mask = torch.ones(self.length, self.length, dtype=torch.bool, device=x.device).tril()
        key = seen.memory + seen.position
        for layer in self.layers:
            x = layer(x, key, seen.memory, mask)
        return F.cross_entropy(self.logits(self.norm(x)).float().mT, tokens, reduction="none")

    def _embedded(self, tokens: Tensor) -> Tensor:
        """(B, n, d_model), of each token and of the number that it stands for: most bins are hardly ever met."""
        return self.embed(tokens) + self.value_proj(self._values(tokens)[..., None])

    def _values(self, tokens: Tensor) -> Tensor:
        return (tokens - self.config.bins // 2) * self.config.resolution

    def _places_of_tokens(self) -> Tensor:
        """(N, d_model), which coefficient of which number a token is."""
        return (self.place_in_time[:, None] + self.place_in_action).flatten(0, 1)

    def _generate(
        self, observation: Observation, chance: Tensor | None = None, memory: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The chunk whose every token is the most likely one, or drawn: `chance` says where in its distribution."""
        seen = self._look(observation, memory)
        key, places = seen.memory + seen.position, self._places_of_tokens()
        caches: list[Cache] = [[] for _ in self.layers]
        x, tokens = self.begin.expand(len(key), 1, -1), []
        for i in range(self.length):
            x = x + places[i]
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, key, seen.memory, cache=cache)
            logits = self.logits(self.norm(x))[:, 0].float()
            tokens.append(logits.argmax(dim=-1) if chance is None else self._draw(logits, chance[:, i]))
            x = self._embedded(tokens[-1][:, None])
        return self.chunk(torch.stack(tokens, dim=1))

    def _draw(self, logits: Tensor, chance: Tensor) -> Tensor:
        """(B,) tokens from (B, bins) and (B,) standard normal numbers, by the inverse of the distribution function."""
        shares, order = (logits / self.config.temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        before = shares.cumsum(dim=-1) - shares
        shares = shares.masked_fill(before >= self.config.top_p, 0.0)
        sums = shares.cumsum(dim=-1)
        at = torch.special.ndtr(chance)[:, None] * sums[:, -1:]
        return order.gather(1, (sums < at).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)).squeeze(1)


class CausalLayer(nn.Module):
    """A decoder layer whose tokens see those before them and the memory; with a cache, one token at a time."""

    def __init__(self, d_model: int, n_heads: int, ffn_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.self_attention, self.cross_attention = (Attention(d_model, n_heads, dropout) for _ in range(2))
        self.feed_forward = feed_forward(d_model, ffn_dim, dropout)
        self.residual_1, self.residual_2, self.residual_3 = (Residual(d_model, dropout, pre_norm) for _ in range(3))

    def forward(
        self, x: Tensor, memory_key: Tensor, memory: Tensor, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """x (B, N, D) and the mask (N, N) that lets it look back; or x (B, 1, D) and what came before in the cache."""

        def look_back(x: Tensor) -> Tensor:
            keys, values = self.self_attention.project(x, x)
            if cache:
                keys, values = (torch.cat(pair, dim=2) for pair in zip(cache[0], (keys, values), strict=True))
            if cache is not None:
                cache[:1] = [(keys, values)]
            return self.self_attention.attend(x, keys, values, mask)

        def attend_to_memory(x: Tensor) -> Tensor:
            if cache is None:
                return self.cross_attention(x, memory_key, memory)
            if len(cache) < 2:
                cache.append(self.cross_attention.project(memory_key, memory))
            return self.cross_attention.attend(x, *cache[1])

        x = self.residual_2(self.residual_1(x, look_back), attend_to_memory)
        return self.residual_3(x, self.feed_forward)
