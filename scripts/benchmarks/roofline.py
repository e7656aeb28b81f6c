"""What a training step asks of a GPU, counted, and how fast GPUs could do it at most, calculated: nothing is measured.

Tensors without numbers (`FakeTensorMode`) take the step of `Trainer`. Counted are the floating point operations of
matrix products and convolutions, and the bytes that all operations read and write, as if each went to memory and back;
what stays in caches or is fused by a compiler costs less. (The roofline: Williams, Waterman, Patterson 2009,
"Roofline: an insightful visual performance model for multicore architectures".)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from act.policies import ACTConfig
from scripts.benchmarks import SIZES
from scripts.benchmarks.learning import LEROBOT_LIKE, Mode, make, make_batch, stepping

CPU = torch.device("cpu")
GPUS = {"A100 80 GB": (312e12, 2.04e12), "H100 SXM": (989e12, 3.35e12), "H200": (989e12, 4.8e12)}
"""Name → dense bfloat16 FLOP/s and bytes/s of memory, from NVIDIA's data sheets."""


class _Bytes(TorchDispatchMode):
    """Sums what operations read and write; views cost nothing."""

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
        """At most, on a GPU of so many FLOP/s and bytes/s."""
        return self.batch / max(self.flops / flops, self.bytes / bandwidth)


def cost(config: ACTConfig = LEROBOT_LIKE, size: tuple[int, int] = (480, 640), batch: int = 8) -> Cost:
    """Of a step in bfloat16, optimiser included, of a policy that sees one camera of that size."""
    policy = make(config, size, CPU)
    samples = make_batch(policy.spec, policy.chunk_size, batch, CPU)
    fake, flops, moved = FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False), _Bytes()
    with fake, stepping(policy, Mode("bfloat16"), CPU) as step, flops, moved:
        step(samples)
    return Cost(batch, flops.get_total_flops(), moved.total)


def rooflines(batch: int) -> dict[str, str]:
    """What a step of the paper's shape costs, and its bound on each GPU, in words, by the size of pictures."""
    told = {}
    for height, width in SIZES:
        each = cost(size=(height, width), batch=batch)
        bounds = [f"{name} {each.samples_per_s(*peaks):.0f}" for name, peaks in GPUS.items()]
        told[f"calculated, a step of the paper's shape in bfloat16, batch {batch}, {height} x {width}"] = (
            f"{each.flops / 1e12:.2f} TFLOP, {each.bytes / 1e9:.1f} GB; samples/s at most: {', '.join(bounds)}"
        )
    return told
