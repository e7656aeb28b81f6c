"""Which starts a training takes, how often, and in which order: split, balance, oversampling and shuffling."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from act.errors import ConfigError

BEGINNING = 20  # steps of an episode


def split_groups(groups: Sequence[object], val_fraction: float, seed: int) -> np.ndarray:
    """Which episodes are for validation, (episodes,) bool; episodes with equal `groups` stay on the same side.

    At least one group is for validation if `val_fraction` is positive and there are several.
    """
    unique = list(dict.fromkeys(groups))
    count = round(val_fraction * len(unique))
    if val_fraction > 0 and len(unique) > 1:
        count = min(max(count, 1), len(unique) - 1)
    chosen = {unique[i] for i in np.random.default_rng(seed).permutation(len(unique))[:count]}
    return np.array([group in chosen for group in groups])


def balance_tasks(starts: Tensor, task: Tensor) -> Tensor:
    """Repeats starts (N,) until every task has equally many; `task` (S,) is that of every step."""
    own = [starts[task[starts] == i] for i in task[starts].unique()]
    most = max(map(len, own))
    return torch.cat([each[torch.arange(most) % len(each)] for each in own])


def oversample_beginnings(starts: Tensor, step: Tensor, fraction: float) -> Tensor:
    """Repeats the first `BEGINNING` steps of each episode until they are a fraction of the starts (N,).

    An instruction, or chance, decides the motion in these steps alone: afterwards the joint positions correlate with
    the goal. A policy that learns from every step equally sees the decision in a few per cent of its batches.

    Args:
        step: (S,) steps since the first one of the episode.
    """
    early, late = starts[step[starts] < BEGINNING], starts[step[starts] >= BEGINNING]
    times = fraction / (1 - fraction) * len(late) / max(1, len(early))
    return torch.cat([late, early.repeat(max(1, round(times)))])


class ShuffledStarts:
    """An endless order of starts, shuffled anew in every pass, without repetition within a pass.

    Batch i is a pure function of (starts, batch_size, seed, i): a resumed run needs only its step number.
    A batch has `accumulate` parts, and the processes share each part. So the batches depend neither on the number of
    parts nor on that of processes.

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
