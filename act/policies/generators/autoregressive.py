"""A chunk as a sequence of tokens: numbers in bins, each predicted by a causal transformer from those before it.

Tokens are the leading coefficients of the chunk's cosine transform, lowest frequency first, so that the first ones say
where the chunk goes and later ones how exactly (as in FAST, Pertsch et al. 2025, arXiv 2501.09747, without its byte
pairs), or, with `code` bins, the values at each step one after the other (as in RT-1 and RT-2).
The chunk is regressed first; tokens are the residual: which of several modes, and little else where there is one. The
likelihood of the residual, in bins, is exact.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.generators.config import AutoregressiveConfig
from act.policies.generators.cosines import cosines
from act.policies.generators.generator import Generator
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import Attention, Float32Linear, Residual, feed_forward, two_layers

Cache = list[tuple[Tensor, Tensor]]
"""Of one layer: keys and values of the tokens so far, and those of the memory."""

Memory = tuple[Tensor, Tensor]
"""What the layers attend to, (B, L, d_model), and its positions."""


class Autoregressive(Generator):
    """See the head of this file."""

    basis: Tensor  # (M, k), rows are what a coefficient stands for

    def __init__(
        self, config: AutoregressiveConfig, policy: PolicyConfig, encoder: ObservationEncoder, head: ActionHead
    ):
        super().__init__(policy, encoder, head, more_queries=1)  # the token that begins
        d, k = policy.transformer.d_model, policy.chunk_size
        basis = torch.eye(k) if config.code == "bins" else cosines(k, min(config.coefficients, k))
        self.config, self.noise_dim = config, len(basis) * head.chunk_dim  # N, tokens of a chunk
        self.register_buffer("basis", basis, persistent=False)
        self.coefficient_embedding = nn.Parameter(torch.randn(len(basis), d))
        self.number_embedding = nn.Parameter(torch.randn(head.chunk_dim, d))
        self.value_proj = two_layers(1, d, d)
        layers = range(policy.transformer.n_decoder_layers)
        self.layers = nn.ModuleList(CausalLayer(*policy.transformer.layer) for _ in layers)
        self.norm, self.mixture = nn.LayerNorm(d), Float32Linear(d, 3 * config.mixture)

    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss", "l1", "nll"}: "nll" is the mean cross entropy of a token, "l1" of the regressed chunk."""
        memory, regressed, begin = self.regress(encoded)
        nll = self.token_nll(self.tokens(target - regressed.detach()), memory, begin).mean()
        losses = self.head.losses(regressed, target, is_pad, valid_steps)
        return self.head.total(losses["l1"] + self.config.nll_weight * nll, losses) | {"nll": nll}

    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        """The chunk whose every token is the most likely one, or the quantile of its distribution that noise names."""
        memory, regressed, x = self.regress(encoded)
        key, positions = memory[0] + memory[1], self._token_positions()
        caches: list[Cache] = [[] for _ in self.layers]
        every = torch.arange(self.config.bins, device=x.device)
        tokens = []
        for i in range(self.noise_dim):
            x = x + positions[i]
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, key, memory[0], cache=cache)
            logits = self._log_probabilities(self.mixture(self.norm(x))[:, 0], every)
            tokens.append(logits.argmax(dim=-1) if noise is None else self.sample_token(logits, noise[:, i]))
            x = self._embed(tokens[-1][:, None])
        return regressed + self.residual(torch.stack(tokens, dim=1))

    def log_likelihood(self, encoded: EncodedObservation, target: Tensor) -> Tensor:
        memory, regressed, begin = self.regress(encoded)
        return -self.token_nll(self.tokens(target - regressed), memory, begin).sum(dim=-1)

    def tokens(self, residual: Tensor) -> Tensor:
        """(B, k, C) → (B, N) int64; values beyond the last bin are put into it."""
        values = (self.basis @ residual / self.config.bin_width).round().long() + self.config.bins // 2
        return values.clamp(0, self.config.bins - 1).flatten(1)

    def residual(self, tokens: Tensor) -> Tensor:
        """(B, N) → (B, k, C), up to what bins and missing coefficients lose."""
        return self.basis.T @ self._values(tokens).view(len(tokens), len(self.basis), -1).float()

    def regress(self, encoded: EncodedObservation) -> tuple[Memory, Tensor, Tensor]:
        """The memory, the regressed chunk (B, k, C), and what the tokens begin with, (B, 1, d_model)."""
        memory = self.transformer.encode(encoded)
        decoded = self.transformer.decode(memory)
        return memory, self.head(decoded[:, :-1], encoded).float(), decoded[:, -1:]

    def token_nll(self, tokens: Tensor, memory: Memory, begin: Tensor) -> Tensor:
        """Cross entropy of each token, (B, N) nats."""
        x = torch.cat([begin, self._embed(tokens[:, :-1])], dim=1)
        x = x + self._token_positions()
        mask = torch.ones(self.noise_dim, self.noise_dim, dtype=torch.bool, device=x.device).tril()
        key = memory[0] + memory[1]
        for layer in self.layers:
            x = layer(x, key, memory[0], mask)
        return -self._log_probabilities(self.mixture(self.norm(x)), tokens[..., None]).squeeze(-1)

    def sample_token(self, logits: Tensor, noise: Tensor) -> Tensor:
        """(B,) tokens from (B, bins) and (B,) standard normal numbers, by the inverse of the distribution function.

        In the order of the bins: the same noise then gives nearly the same number from one query to the next.
        """
        shares = (logits / self.config.temperature).softmax(dim=-1)
        if self.config.top_p < 1:
            likely = shares.sort(dim=-1, descending=True).values
            beyond = likely.cumsum(dim=-1) - likely >= self.config.top_p
            least = likely.masked_fill(beyond, 1.0).amin(dim=-1, keepdim=True)
            shares = shares.masked_fill(shares < least, 0.0)
        sums = shares.cumsum(dim=-1)
        at = torch.special.ndtr(noise)[:, None] * sums[:, -1:]
        return (sums < at).sum(dim=-1).clamp(max=logits.shape[-1] - 1)

    def _log_probabilities(self, mixture: Tensor, tokens: Tensor) -> Tensor:
        """Of bins (…, n), from a mixture of logistic distributions (…, 3 · mixture).

        Neighbouring bins are then alike, and certainty needs one narrow peak and not a bin that was seen often
        (Salimans et al. 2017, arXiv 1701.05517, section 2.1).
        """
        weight, middle, scale = (each[..., None, :] for each in mixture.chunk(3, dim=-1))
        scale = scale.clamp(-7, 3).exp()
        edge = self._values(tokens)[..., None] - middle
        low, high = ((edge + side * self.config.bin_width / 2) / scale for side in (-1, 1))
        low = low.masked_fill(tokens[..., None] == 0, -1e9)
        high = high.masked_fill(tokens[..., None] == self.config.bins - 1, 1e9)
        inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log1p(-(low - high).exp())
        return (weight.log_softmax(dim=-1) + inside).logsumexp(dim=-1)

    def _embed(self, tokens: Tensor) -> Tensor:
        """(B, n, d_model)"""
        return self.value_proj(self._values(tokens)[..., None])

    def _values(self, tokens: Tensor) -> Tensor:
        return (tokens - self.config.bins // 2) * self.config.bin_width

    def _token_positions(self) -> Tensor:
        """(N, d_model): which coefficient of which number a token is."""
        return (self.coefficient_embedding[:, None] + self.number_embedding).flatten(0, 1)


class CausalLayer(nn.Module):
    """A decoder layer whose tokens attend to those before them and to the memory; with a cache, one token at a time."""

    def __init__(self, d_model: int, n_heads: int, ffn_dim: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.self_attention, self.cross_attention = (Attention(d_model, n_heads, dropout) for _ in range(2))
        self.feed_forward = feed_forward(d_model, ffn_dim, dropout)
        self.residual_1, self.residual_2, self.residual_3 = (Residual(d_model, dropout, pre_norm) for _ in range(3))

    def forward(
        self, x: Tensor, memory_key: Tensor, memory: Tensor, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """x (B, N, D) and the causal mask (N, N); or x (B, 1, D) and a cache of the tokens before it."""

        def attend_to_past(x: Tensor) -> Tensor:
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

        x = self.residual_2(self.residual_1(x, attend_to_past), attend_to_memory)
        return self.residual_3(x, self.feed_forward)
