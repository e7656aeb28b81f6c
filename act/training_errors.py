"""What stops a training, in one line that names the settings to change and the checkpoint that remains."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from act.distributed import is_lost_process
from act.errors import ConfigError
from act.reading import WITHOUT, lost_reader
from act.train_config import TrainConfig


def not_finite(step: int, config: TrainConfig, kept: str) -> ConfigError:
    """The loss or its gradient is NaN or infinite."""
    return ConfigError(
        f"the loss or its gradient is no longer finite at step {step} (lr {config.lr:g}, grad_clip "
        f"{config.grad_clip:g}); a lower --lr, --grad-clip 1 or --dtype float32 would help; {kept}"
    )


def memory_advice(config: TrainConfig, device: torch.device, images: Mapping[str, Tensor] | None, kept: str) -> str:
    """What a step of this size takes, and what would take less.

    Args:
        images: the cached images.
        kept: which checkpoint remains.
    """
    parts = min(2 * config.accumulate, config.batch_size)
    smaller = [f"--accumulate {parts} takes the same step in smaller parts"] if parts > config.accumulate else []
    smaller += ["a smaller --batch-size"] if config.batch_size > 1 else ["a smaller policy"]
    if images and next(iter(images.values())).device.type == "cuda":
        smaller.append("--cache ram")
    return (
        f"{device} has too little for a step of --batch-size {config.batch_size} with --accumulate "
        f"{config.accumulate}; {', or '.join(smaller)} would help; {kept}"
    )


@contextmanager
def lost_processes_named(state: Callable[[], tuple[int, str]]) -> Iterator[None]:
    """ConfigError where another training process or a reader was lost.

    Args:
        state: returns the step, and which checkpoint remains.
    """
    try:
        yield
    except RuntimeError as error:
        if is_lost_process(error):
            what, how = "another process was lost", ", with any number of processes"
        elif reader := lost_reader(error):
            what, how = reader, f"; {WITHOUT}"
        else:
            raise
        step, kept = state()
        raise ConfigError(f"{what} at step {step}; {kept}, --resume continues from there{how}") from error
