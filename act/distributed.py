"""Several processes that train together, started by torchrun: torch's own engine, and the few words we need of it.

torchrun gives every process its rank in the environment. Without it there is one process, and nothing here costs
anything. Tensors on CUDA travel by NCCL; tensors on the CPU, and plain objects, by Gloo.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from act.errors import ConfigError

TIMEOUT = timedelta(minutes=30)  # rank 0 may roll a policy out while the others wait for it


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is: the only one, unless torchrun says otherwise."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """This process' device: "cuda" (and "auto" where there is CUDA) become the one with its local rank."""
        if self.size > 1 and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
            return f"cuda:{self.local_rank}"
        return name

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of all processes' tensors; every process must ask."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, value: bool) -> bool:
        """Whether it is true in any process; every process must ask. Goes by the CPU: no device has to wait."""
        if self.size == 1:
            return value
        flag = torch.tensor(float(value))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def on_main(self, act: Callable[[], None]) -> None:
        """Does something in rank 0 alone; the others wait for it and share its mistakes.

        Raises:
            ConfigError: in every process, if rank 0 raised it.
        """
        problem = None
        if self.is_main:
            try:
                act()
            except ConfigError as error:
                problem = error
        problem = self.gather(problem)[0]
        if problem is not None:
            raise problem

    def gather(self, value: Any) -> list[Any]:
        """All processes' values, in the order of ranks; every process must ask."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = World()


@contextmanager
def join_world() -> Iterator[World]:
    """Joins the processes that torchrun started; alone, yields a world of one.

    Raises:
        ConfigError: the environment names a size but not all that torchrun sets, the others cannot be reached, or one
            of them is lost.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if missing := [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(f"WORLD_SIZE is set but {missing[0]} is not; start several processes with torchrun")
    world = World(*(int(os.environ[name]) for name in names))
    cuda = torch.cuda.is_available() and world.local_size <= torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(world.local_rank)
        os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", str(world.local_rank))  # its environments render there too
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    except dist.DistError as error:
        raise ConfigError(f"rank {world.rank} cannot reach the others: {error}") from error
    try:
        yield world
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise ConfigError(
            "another process was lost; what was saved before is kept, and the same command goes on from there"
        ) from error
    finally:
        dist.destroy_process_group()


def is_lost_process(error: RuntimeError) -> bool:
    """Whether a collective operation failed, as it does when another process ends or its machine is gone."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def data_parallel(policy: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The policy as one of several processes' that take the same steps."""
    norms = [m for m in policy.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    if norms and device.type == "cuda":  # CPUs have none: each process then has its own statistics
        policy = nn.SyncBatchNorm.convert_sync_batchnorm(policy)
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(policy, devices, broadcast_buffers=False, gradient_as_bucket_view=True)
