"""Batches whose frames worker processes read ahead.

Workers send them through pipes, as plain arrays. PyTorch would put them into shared memory, which containers have
little of, and pass file descriptors through sockets, which fail below a long TMPDIR: in a thread of the worker, so that
training would wait for ever.
"""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import Queue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from act.errors import ConfigError
from act.policies.base import Batch, Observation
from act.sampling import ShuffledStarts
from act.threads import allowed_cores

if TYPE_CHECKING:
    from act.dataset import ChunkDataset

LATEST = 5.0  # s that a worker lives after SIGTERM: a signal for all processes must not end it before the last step
WITHOUT = "--num-workers 0 or --cache ram would work"


def read_ahead(
    dataset: "ChunkDataset", order: ShuffledStarts, numbers: range, device: torch.device, num_workers: int
) -> Iterator[Batch]:
    """The shares `numbers` of the batches of `order`, on `device`; at most one worker a core.

    Raises:
        ConfigError: the system refuses to start the workers.
    """
    workers = min(num_workers, allowed_cores())
    loader = DataLoader(
        _Reader(dataset, order),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else starting the workers would draw from the training's random numbers
    )
    # Ctrl-C reaches all processes of a terminal. Workers inherit that it is blocked; this one decides what it means.
    masks = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        if workers:
            Queue().close()  # refused here, the loader would complain once more as it is let go
        batches = iter(loader)
    except OSError as error:
        what = "no file descriptor is left" if error.errno in (errno.EMFILE, errno.ENFILE) else error.strerror
        raise ConfigError(f"processes that read frames ahead cannot start: {what}; {WITHOUT}") from error
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for fields in batches:
        if isinstance(fields, Exception):
            raise fields
        yield _from_fields({name: torch.from_numpy(value) for name, value in fields.items()}).to(device)


def lost_reader(error: RuntimeError) -> str:
    """What happened to a worker, in words, if `error` is PyTorch's about a lost one; "" otherwise."""
    words = str(error)
    if "DataLoader worker" not in words and "ommunication with the workers" not in words:
        return ""
    if "Too many open files" in words:
        return "no file descriptor was left (see `ulimit -n`) for a process that reads frames ahead"
    return "a process that reads frames ahead was killed, by hand or for want of memory,"


class _Reader(Dataset):
    """Batch i as a dict of arrays, or the exception that reading it raised: PyTorch would put a traceback into it."""

    def __init__(self, dataset: "ChunkDataset", order: ShuffledStarts):
        self.dataset, self.order = dataset, order

    def __getitem__(self, i: int) -> dict[str, np.ndarray] | Exception:
        try:
            batch = self.dataset.gather(*self.order[i])
        except Exception as error:
            return error
        seen = batch.observation
        assert batch.valid_steps is not None
        assert batch.keyframe is not None
        fields = {"qpos": seen.qpos, "action": batch.action, "is_pad": batch.is_pad}
        fields |= {"valid_steps": batch.valid_steps, "keyframe": batch.keyframe}
        fields |= {} if seen.env_state is None else {"env_state": seen.env_state}
        fields |= {} if seen.instruction is None else {"instruction": seen.instruction}
        fields |= {f"images/{name}": frame for name, frame in seen.images.items()}
        return {name: value.numpy() for name, value in fields.items()}


def _from_fields(fields: dict[str, Tensor]) -> Batch:
    images = {key.removeprefix("images/"): value for key, value in fields.items() if key.startswith("images/")}
    observation = Observation(fields["qpos"], images, fields.get("env_state"), instruction=fields.get("instruction"))
    return Batch(observation, fields["action"], fields["is_pad"], fields["valid_steps"], fields["keyframe"])


def _as_it_is(fields: Any) -> Any:
    return fields


def _start(worker: int) -> None:
    def end_later(number: int, frame: object) -> None:
        timer = threading.Timer(LATEST, os._exit, [128 + number])
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end_later)
