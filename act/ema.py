"""The moving average of a policy's weights, with which it is validated, rolled out and stored."""

import copy

from torch.optim.swa_utils import get_ema_multi_avg_fn

from act.policies.policy import Policy


class MovingAverage:
    """A copy of a policy whose trained weights are an exponential moving average.

    Args:
        policy: the policy that is trained.
        decay: of the average.

    Attributes:
        policy: the copy, in evaluation mode.
    """

    def __init__(self, policy: Policy, decay: float):
        self.trained, self.decay = policy, decay
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        pairs = zip(self.policy.parameters(), policy.parameters(), strict=True)
        self._averages, self._weights = [], []
        for average, weight in pairs:
            if weight.requires_grad:
                self._averages.append(average)
                self._weights.append(weight)

    def update(self, step: int) -> None:
        """Takes the weights after step 1, 2, … into the average."""
        # With the full decay the average would remember the random start for 1 / (1 - decay) steps.
        decay = min(self.decay, step / (step + 10))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, step)

    def with_buffers(self) -> Policy:
        """The averaged policy with the buffers of the trained one: batch norm's statistics are averages already."""
        for theirs, own in zip(self.trained.buffers(), self.policy.buffers(), strict=True):
            own.copy_(theirs)
        return self.policy
