"""From chunks of k predicted actions to one action a step, for N environments that step together.

    executor.reset(n)
    while running:
        chunk = policy(observation) if executor.needs_chunk else None  # (N, k, A)
        action = executor.step(chunk)  # (N, A)

An executor asks for a chunk exactly when it cannot go on without one, so nobody renders or infers in vain.
A chunk that comes earlier than asked for is welcome: it replaces the plan, or joins the average.
"""

from abc import ABC, abstractmethod

import numpy as np

from act.errors import ConfigError


class ChunkExecutor(ABC):
    """Turns chunks into actions.

    Args:
        chunk_size: k, the number of actions in every chunk.

    Raises:
        ConfigError: `chunk_size` is not positive.
    """

    def __init__(self, chunk_size: int):
        if chunk_size < 1:
            raise ConfigError(f"chunk_size is {chunk_size}: a chunk holds at least 1 action")
        self.chunk_size = chunk_size
        self._n = 0
        self._age = 0  # steps since the latest chunk arrived

    def reset(self, n: int) -> None:
        """A new wave of n episodes begins: forget every prediction."""
        self._n, self._age = n, 0
        self._forget()

    @property
    @abstractmethod
    def needs_chunk(self) -> bool:
        """Must the next `step` be given a chunk?"""

    def step(self, chunk: np.ndarray | None = None) -> np.ndarray:
        """The action of this step, (N, A) float32, given a (N, k, A) chunk predicted now, or None.

        Raises:
            ValueError: no chunk where one is needed, or one of a wrong shape.
        """
        if chunk is None and self.needs_chunk:
            raise ValueError(f"{type(self).__name__} needs a chunk at this step, given None: ask needs_chunk first")
        if chunk is not None:
            if chunk.ndim != 3 or chunk.shape[:2] != (self._n, self.chunk_size):
                raise ValueError(f"chunk has shape {chunk.shape}, expected ({self._n}, {self.chunk_size}, A)")
            self._age = 0
            self._take(chunk)
        action = self._act()
        self._age += 1
        return action

    @abstractmethod
    def _forget(self) -> None: ...

    @abstractmethod
    def _take(self, chunk: np.ndarray) -> None: ...

    @abstractmethod
    def _act(self) -> np.ndarray: ...


class RecedingHorizon(ChunkExecutor):
    """Executes the first `n_action_steps` actions of a chunk, half of them by default, then asks for the next chunk.

    Raises:
        ConfigError: `n_action_steps` is not in 1 … chunk_size.
    """

    def __init__(self, chunk_size: int, n_action_steps: int | None = None):
        super().__init__(chunk_size)
        n_action_steps = -(-chunk_size // 2) if n_action_steps is None else n_action_steps
        if not 1 <= n_action_steps <= chunk_size:
            raise ConfigError(
                f"cannot execute {n_action_steps} actions of a chunk of {chunk_size}: choose 1 to {chunk_size}"
            )
        self.n_action_steps = n_action_steps
        self._plan: np.ndarray | None = None  # (N, k, A)

    @property
    def needs_chunk(self) -> bool:
        return self._plan is None or self._age >= self.n_action_steps

    def _forget(self) -> None:
        self._plan = None

    def _take(self, chunk: np.ndarray) -> None:
        self._plan = chunk.astype(np.float32)

    def _act(self) -> np.ndarray:
        assert self._plan is not None
        return self._plan[:, self._age].copy()


RELATIVE_COEFF = -1.0
"""Of temporal ensembling where actions are relative: the newest prediction weighs 63 %, the newest three 95 %."""


def default_executor(chunk_size: int, relative: bool = False) -> ChunkExecutor:
    """Temporal ensembling with ten queries a chunk.

    Absolute actions: with the paper's coefficient, so that what was seen before an arm hid it still counts, and single
    mistakes do not. Relative actions: an old prediction does not know where the arm went since, so their equal mean
    corrects an error within a whole chunk's time only; the newest predictions count most.
    """
    every = -(-chunk_size // 10)
    return TemporalEnsemble(chunk_size, RELATIVE_COEFF if relative else 0.01, replan_every=every)


class OpenLoop(RecedingHorizon):
    """Executes every chunk to its end."""

    def __init__(self, chunk_size: int):
        super().__init__(chunk_size, n_action_steps=chunk_size)


class TemporalEnsemble(ChunkExecutor):
    """Averages all predictions made for the same step (Zhao et al. 2023, section IV-A).

    The action at step t is Σ w_i a_i / Σ w_i over the live predictions for t, w_i = exp(-coeff · i), where i = 0 is the
    OLDEST. A positive coeff trusts old predictions more, 0 all alike, a negative one the newest.
    Only the running sums of the next k steps are kept: each new prediction is the newest of its step, so its weight
    follows from how many came before it.

    Args:
        chunk_size: k.
        coeff: the m of exp(-m · i); 0.01 in the paper.
        replan_every: steps between two queries of the policy; 1 in the paper, more is cheaper and averages less.

    Raises:
        ConfigError: `replan_every` is not in 1 … chunk_size, or `coeff` is not a finite number with finite weights.
    """

    def __init__(self, chunk_size: int, coeff: float = 0.01, replan_every: int = 1):
        super().__init__(chunk_size)
        if not 1 <= replan_every <= chunk_size:
            raise ConfigError(
                f"cannot query every {replan_every} steps with chunks of {chunk_size}: choose 1 to {chunk_size}"
            )
        if not abs(coeff) * chunk_size < 500:  # exp overflows at 709; NaN fails the comparison too
            limit = 500 / chunk_size
            raise ConfigError(f"ensemble coefficient is {coeff}: choose a number between {-limit:g} and {limit:g}")
        self.coeff = coeff
        self.replan_every = replan_every
        self._count = np.zeros(chunk_size)  # predictions so far for each of the next k steps
        self._weight = np.zeros(chunk_size)  # Σ w_i
        self._sum: np.ndarray | None = None  # Σ w_i a_i, (k, N, A)

    @property
    def needs_chunk(self) -> bool:
        return self._sum is None or self._age >= self.replan_every

    def _forget(self) -> None:
        self._count[:] = self._weight[:] = 0
        self._sum = None

    def _take(self, chunk: np.ndarray) -> None:
        by_step = chunk.swapaxes(0, 1)  # (k, N, A)
        if self._sum is None:
            self._sum = np.zeros(by_step.shape)
        weight = np.exp(-self.coeff * self._count)  # (k,)
        self._sum += weight[:, None, None] * by_step
        self._weight += weight
        self._count += 1

    def _act(self) -> np.ndarray:
        assert self._sum is not None
        action = (self._sum[0] / self._weight[0]).astype(np.float32)
        for future in (self._count, self._weight, self._sum):  # one step has passed
            future[:-1] = future[1:]
            future[-1] = 0
        return action
