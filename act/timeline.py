"""All episodes end to end on one time line, so that a step is one number and batches are gathered by index tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class TimeLine:
    """The kept steps of several episodes, S of them together.

        episode           0 0 0 0 0 1 1 1
        place             0 1 2 3 4 5 6 7
        first of episode  0         5

    Args:
        kept: of each episode the (N,) steps that stand on the time line, in order.

    Attributes:
        first, last: (episodes,) int64, place of the first and of the last step of each episode.
        episode: (S,) int64, place → episode.
    """

    def __init__(self, kept: Sequence[np.ndarray]):
        self.kept = list(kept)
        lengths = torch.tensor([len(steps) for steps in self.kept])
        ends = lengths.cumsum(0)
        self.first, self.last = ends - lengths, ends - 1
        self.episode = torch.arange(len(lengths)).repeat_interleave(lengths)

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def longest(self) -> int:
        """Steps of the longest episode."""
        return max(map(len, self.kept))

    @property
    def since_first(self) -> Tensor:
        """(S,) int64, steps since the first one of the episode."""
        return torch.arange(len(self)) - self.first[self.episode]

    def join(self, episodes: Sequence[np.ndarray]) -> Tensor:
        """Values (T, …) of every episode, all steps → those on the time line, (S, …)."""
        pairs = zip(episodes, self.kept, strict=True)
        return torch.from_numpy(np.concatenate([values[kept] for values, kept in pairs]))

    def locate(self, places: Tensor) -> list[tuple[int, int]]:
        """Places (B,) → episode and step in its file."""
        episodes = self.episode[places]
        steps = (places - self.first[episodes]).tolist()
        return [(n, int(self.kept[n][i])) for n, i in zip(episodes.tolist(), steps, strict=True)]


def joint_time_lines(intended: Tensor) -> tuple[Tensor, Tensor] | None:
    """A time line for each joint, without the steps that failed grasps took it.

    Args:
        intended: (S, A) bool, see `act.targets.Targets`.

    Returns:
        The steps of each joint's time line in order, (S, A), and the place in it of every step, or of the next
        intended one, (S, A); None where all steps are intended.
    """
    if intended.all():
        return None
    steps = torch.arange(len(intended))[:, None]
    return torch.where(intended, steps, len(intended)).sort(dim=0).values, intended.cumsum(0) - intended.long()
