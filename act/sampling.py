"""In which order a training takes the starts of its episodes, and which of them it takes more often."""

import numpy as np
import torch
from torch import Tensor

from act.errors import ConfigError

BEGINNING = 20  # steps of an episode


def balance_tasks(starts: Tensor, task: Tensor) -> Tensor:
    """Starts (N,) of which each task, (S,) one of every start, has as many: those of shorter ones come again."""
    own = [starts[task[starts] == i] for i in task[starts].unique()]
    most = max(map(len, own))
    return torch.cat([each[torch.arange(most) % len(each)] for each in own])


def oversample_beginnings(starts: Tensor, step: Tensor, share: float) -> Tensor:
    """Starts (N,) of which a share are from the beginning of an episode, `step` (S,) steps after it; none is left out.

    What words or chance decide they decide there: soon the arms, which are seen too, give away where they are going,
    and a policy that learns from every step alike decides in no more than a few per cent of them.
    """
    early, late = starts[step[starts] < BEGINNING], starts[step[starts] >= BEGINNING]
    times = share / (1 - share) * len(late) / max(1, len(early))
    return torch.cat([late, early.repeat(max(1, round(times)))])


class ShuffledStarts:
    """An endless order of starts, shuffled anew in every pass and without repetition within one.

    Batch i is a pure function of (starts, batch_size, seed, i): a resumed run needs no more than its step number.
    A batch is divided into `accumulate` parts, one after the other, and each of them among `size` processes, so that
    the batches do not depend on either number.

    Args:
        starts: (N,) int64.
        batch_size: B, of the whole batch, a multiple of accumulate · size.
        seed: of the order.
        accumulate: parts of a batch that follow each other.
        rank, size: which of how many processes this one is.

    Raises:
        ConfigError: the batch cannot be divided so.
    """

    def __init__(
        self, starts: Tensor, batch_size: int, seed: int, *, accumulate: int = 1, rank: int = 0, size: int = 1
    ):
        if batch_size % (accumulate * size):
            raise ConfigError(
                f"batch_size is {batch_size}, which {size} processes with --accumulate {accumulate} cannot share "
                f"evenly; choose a multiple of {accumulate * size}"
            )
        # A copy: what is pickled for a worker process moves into shared memory, and a view of it would stay behind.
        self.starts, self.batch_size, self.seed = starts.numpy().copy(), batch_size, seed
        self.accumulate, self.rank, self.size = accumulate, rank, size
        self._passes: dict[int, np.ndarray] = {}

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """This process' share of part i % accumulate of batch i // accumulate, and all (B,) starts of the batch."""
        batch, part = divmod(i, self.accumulate)
        whole = self.batch(batch)
        return whole.view(self.accumulate, self.size, -1)[part, self.rank], whole

    def batch(self, i: int) -> Tensor:
        """(B,) int64 starts of batch i."""
        first, n = i * self.batch_size, len(self.starts)
        last = first + self.batch_size
        self._passes = {p: self._shuffled(p) for p in range(first // n, (last - 1) // n + 1)}
        pieces = [order[max(0, first - p * n) : last - p * n] for p, order in self._passes.items()]
        return torch.from_numpy(np.concatenate(pieces))

    def _shuffled(self, number: int) -> np.ndarray:
        if number in self._passes:
            return self._passes[number]
        return np.random.default_rng((self.seed, number)).permutation(self.starts)
