"""The cost of a training step, counted, and the highest speed that GPUs could reach, calculated. Nothing is measured.

`Trainer` takes its step on tensors without data (`FakeTensorMode`). This counts the floating point operations of matrix
products and convolutions, and the bytes that all operations read and write, as if each tensor went to memory and back.
Caches and compilers save some of these. Roofline model: Williams, Waterman, Patterson 2009,
https://doi.org/10.1145/1498765.1498785.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from act.policies import PolicySettings
from scripts.benchmarks.learning import LEROBOT_LIKE, Mode, make, make_batch, stepping

CPU = torch.device("cpu")
GPUS = {"A100 80 GB": (312e12, 2.04e12), "H100 SXM": (989e12, 3.35e12), "H200": (989e12, 4.8e12)}
"""Name → dense bfloat16 FLOP/s and bytes/s of memory, from NVIDIA's data sheets."""


class _Bytes(TorchDispatchMode):
    """Sums the bytes that operations read and write. Views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
            self.total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


@dataclass(frozen=True)
class Cost:
    """Of one training step."""

    batch: int
    flops: float
    bytes: float

    def samples_per_s(self, flops: float, bandwidth: float) -> float:
        """The highest speed on a GPU with `flops` FLOP/s and `bandwidth` bytes/s."""
        return self.batch / max(self.flops / flops, self.bytes / bandwidth)


def cost(config: PolicySettings = LEROBOT_LIKE, size: tuple[int, int] = (480, 640), batch: int = 8) -> Cost:
    """The cost of a step in bfloat16, optimiser included, of a policy with one camera of that size."""
    policy = make(config, size, CPU)
    samples = make_batch(policy.spec, policy.chunk_size, batch, CPU)
    fake, flops, moved = FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False), _Bytes()
    with fake, stepping(policy, Mode("bfloat16"), CPU) as step, flops, moved:
        step(samples)
    return Cost(batch, flops.get_total_flops(), moved.total)
