"""Which checkpoint is the best: losses on the validation episodes, or success in rollouts."""

from collections.abc import Callable

import torch

from act.dataset import ChunkDataset
from act.device import autocast, pick_dtype
from act.policies.policy import Policy
from act.train_config import TrainConfig


def is_due(step: int, every: int, config: TrainConfig) -> bool:
    """Whether something that happens every `every` steps, and after the last one, happens now."""
    return step % every == 0 or step == config.steps


class Selection:
    """Measures a policy whenever that is due, and remembers the best score.

    The score is the success rate of rollouts, or else the negative validation L1: higher is better.

    Args:
        dataset: with validation starts or without.
        config: when to measure.
        evaluate: returns figures of rollouts, "success_rate" among them; None: no rollouts.
    """

    def __init__(
        self, dataset: ChunkDataset, config: TrainConfig, evaluate: Callable[[Policy], dict[str, float]] | None
    ):
        self.dataset, self.config, self.evaluate = dataset, config, evaluate
        self.best: float | None = None

    @property
    def measures(self) -> bool:
        """Whether anything is ever measured."""
        return self.evaluate is not None or len(self.dataset.val) > 0

    def _rolls_out(self, step: int) -> bool:
        return self.evaluate is not None and is_due(step, self.config.eval_every, self.config)

    def _validates(self, step: int) -> bool:
        return len(self.dataset.val) > 0 and is_due(step, self.config.val_every, self.config)

    def due(self, step: int) -> bool:
        """Whether there is something to measure after this step."""
        return self._rolls_out(step) or self._validates(step)

    def measure(self, policy: Policy, step: int, record: Callable[[dict[str, float]], None]) -> bool:
        """Measures what is due.

        Args:
            policy: in evaluation mode.
            record: called with the figures of each measurement once all of them are there.

        Returns:
            Whether this is the best step so far.
        """
        found, score = list[dict[str, float]](), None
        if self._validates(step):
            device = next(policy.parameters()).device
            found.append(validate(policy, self.dataset, self.config, device, pick_dtype(self.config.dtype, device)))
            score = -found[0]["val/predict_l1"]
        if self.evaluate is not None:
            score = None
            if self._rolls_out(step):
                measured = self.evaluate(policy)
                score = measured["success_rate"]
                found.append({f"eval/{name}": value for name, value in measured.items()})
        for figures in found:
            record(figures)
        if score is None or (self.best is not None and score < self.best):
            return False
        self.best = score
        return True


@torch.no_grad()
def validate(
    policy: Policy, dataset: ChunkDataset, config: TrainConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    """Measures a policy on `config.val_starts` starts spread evenly over the validation episodes.

    Args:
        policy: in evaluation mode.

    Returns:
        "val/<part>": the losses of `forward` (for ACT with z from the posterior);
        "val/predict_l1": mean |error| of `predict` (for ACT with z = 0), in z-scores like the L1 in training;
        "val/diagnostics/…" of the first batch.
    """
    chosen = torch.linspace(0, len(dataset.val) - 1, min(config.val_starts, len(dataset.val))).long()
    figures: dict[str, float] = {}
    errors, cells = 0.0, 0
    for starts in dataset.val[chosen].split(config.batch_size):
        batch = dataset.gather(starts).to(device)
        with autocast(device, dtype):
            losses, predicted = policy(batch), policy.predict(batch.observation)
            if not figures:
                figures = {f"val/diagnostics/{name}": value for name, value in policy.diagnostics(batch).items()}
        for name, value in losses.items():
            share = value.item() * len(starts) / len(chosen)
            figures[f"val/{name}"] = figures.get(f"val/{name}", 0.0) + share
        error = (predicted - batch.action) / policy.head.normalizer.action_std
        errors += error[~batch.is_pad].abs().sum().item()
        cells += int((~batch.is_pad).sum()) * error.shape[-1]
    return figures | {"val/predict_l1": errors / cells}
