"""A chunk as a sentence: numbers in bins are tokens, and a causal transformer tells each from those before it.

Tokens are the leading coefficients of the chunk's cosine transform, lowest frequency first, so that the first ones say
where the chunk goes and later ones how exactly (as in FAST, Pertsch et al. 2025, arXiv 2501.09747, without its byte
pairs), or, with `code` bins, the values at each step one after the other (as RT-1 and RT-2 have it).
Where the chunk lies is told first, as in regression; tokens say what is left: which of several ways, and little else
where there is one. The likelihood of what is left, in bins, is exact.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act.policies.answering import AnsweringPolicy, Seen
from act.policies.base import Batch, Observation
from act.policies.config import AutoregressiveConfig
from act.policies.seeing import transformer_shape, two_layers
from act.policies.spectrum import cosines
from act.policies.transformer import Attention, Float32Linear, Residual, feed_forward
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
        self._make_decoder(more=1)  # for the token that begins
        basis = torch.eye(k) if config.code == "bins" else cosines(k, min(config.coefficients, k))
        self.register_buffer("basis", basis, persistent=False)
        self.place_in_time = nn.Parameter(torch.randn(len(basis), d))
        self.place_in_action = nn.Parameter(torch.randn(self.chunk_dim, d))
        self.embed = two_layers(1, d, d)
        self.layers = nn.ModuleList(CausalLayer(*transformer_shape(config)) for _ in range(config.n_decoder_layers))
        self.norm, self.mixture = nn.LayerNorm(d), Float32Linear(d, 3 * config.mixture)

    @property
    def length(self) -> int:
        """N, tokens of a chunk."""
        return len(self.basis) * self.chunk_dim

    @property
    def noise_dim(self) -> int:
        return self.length

    def tokens(self, left: Tensor) -> Tensor:
        """(B, k, C) → (B, N) int64; what lies beyond the last bin is put into it."""
        values = (self.basis @ left / self.config.resolution).round().long() + self.config.bins // 2
        return values.clamp(0, self.config.bins - 1).flatten(1)

    def left(self, tokens: Tensor) -> Tensor:
        """(B, N) → (B, k, C), up to what bins and missing coefficients lose."""
        return self.basis.T @ self._values(tokens).view(len(tokens), len(self.basis), -1).float()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss", "nats", "l1"} and perhaps "pose", "keyframe", "place".

        "nats" is the mean cross entropy of a token, and learnt from; so are "l1" and "place", of what is told before.
        """
        target = self._target(batch)
        seen, told, begin = self._look_and_tell(batch)
        nats = self._nats(self.tokens(target - told.detach()), seen, begin).mean()
        losses = self._chunk_l1(told, target, batch) | {"nats": nats}
        losses |= self._auxiliary_losses(batch, seen.image_tokens, seen.keyframe)
        return self._total(losses, losses["l1"] + self.config.nats_weight * nats)

    @torch.no_grad()
    def log_likelihood(self, batch: Batch) -> Tensor:
        seen, told, begin = self._look_and_tell(batch)
        return -self._nats(self.tokens(self._target(batch) - told), seen, begin).sum(dim=-1)

    @torch.no_grad()
    def left_out(self, batch: Batch) -> Tensor:
        """What no token says of the demonstrated chunks, (B, k, C): the coefficients that are missing."""
        left = self._target(batch) - self._look_and_tell(batch)[1]
        return left - self.basis.T @ (self.basis @ left)

    def _look_and_tell(self, batch: Batch) -> tuple[Seen, Tensor, Tensor]:
        """What is seen, and what `_tell` tells of it, of demonstrations."""
        seen = self._look(batch.observation)
        return seen, *self._tell(seen, self._goal_in(batch, seen))

    def _tell(self, seen: Seen, goal: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where a chunk lies, (B, k, C), and what the tokens begin with, (B, 1, d_model)."""
        decoded = self.decoder(self.query, seen.memory, seen.position)
        return self._told(decoded[:, :-1], seen.qpos, goal).float(), decoded[:, -1:]

    def _nats(self, tokens: Tensor, seen: Seen, begin: Tensor) -> Tensor:
        """Cross entropy of each token, (B, N)."""
        x = torch.cat([begin, self._embedded(tokens[:, :-1])], dim=1)
        x = x + self._places_of_tokens()
        mask = torch.ones(self.length, self.length, dtype=torch.bool, device=x.device).tril()
        key = seen.memory + seen.position
        for layer in self.layers:
            x = layer(x, key, seen.memory, mask)
        return -self._log_shares(self.mixture(self.norm(x)), tokens[..., None]).squeeze(-1)

    def _log_shares(self, mixture: Tensor, tokens: Tensor) -> Tensor:
        """Of bins, (…, n), those of a mixture of logistic distributions, (…, 3 · mixture), which fall into them.

        Neighbouring bins then are alike, and what is sure needs one narrow hill and not a bin that was met often
        (Salimans et al. 2017, arXiv 1701.05517, section 2.1).
        """
        weight, middle, scale = (each[..., None, :] for each in mixture.chunk(3, dim=-1))
        scale = scale.clamp(-7, 3).exp()
        edge = self._values(tokens)[..., None] - middle
        low, high = ((edge + side * self.config.resolution / 2) / scale for side in (-1, 1))
        low = low.masked_fill(tokens[..., None] == 0, -1e9)
        high = high.masked_fill(tokens[..., None] == self.config.bins - 1, 1e9)
        inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log1p(-(low - high).exp())
        return (weight.log_softmax(dim=-1) + inside).logsumexp(dim=-1)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """(B, n, d_model), of the numbers that tokens stand for."""
        return self.embed(self._values(tokens)[..., None])

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
        told, x = self._tell(seen, seen.keyframe)
        every = torch.arange(self.config.bins, device=x.device)
        tokens = []
        for i in range(self.length):
            x = x + places[i]
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, key, seen.memory, cache=cache)
            logits = self._log_shares(self.mixture(self.norm(x))[:, 0], every)
            tokens.append(logits.argmax(dim=-1) if chance is None else self._draw(logits, chance[:, i]))
            x = self._embedded(tokens[-1][:, None])
        return told + self.left(torch.stack(tokens, dim=1))

    def _draw(self, logits: Tensor, chance: Tensor) -> Tensor:
        """(B,) tokens from (B, bins) and (B,) standard normal numbers, by the inverse of the distribution function.

        In the order of the bins: one chance then stands for nearly the same number from one look to the next.
        """
        shares = (logits / self.config.temperature).softmax(dim=-1)
        if self.config.top_p < 1:
            likely = shares.sort(dim=-1, descending=True).values
            beyond = likely.cumsum(dim=-1) - likely >= self.config.top_p
            least = likely.masked_fill(beyond, 1.0).amin(dim=-1, keepdim=True)
            shares = shares.masked_fill(shares < least, 0.0)
        sums = shares.cumsum(dim=-1)
        at = torch.special.ndtr(chance)[:, None] * sums[:, -1:]
        return (sums < at).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


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
