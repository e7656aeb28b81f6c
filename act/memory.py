"""Where memory does not suffice, on whatever device: said in one line that names the settings to change."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from act.errors import ConfigError

SIGNS = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "alloc_failed", "unable to mmap")
"""What PyTorch, CUDA and oneDNN write into a RuntimeError that means it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, NumPy or PyTorch tells that memory could not be had."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS)


@contextmanager
def memory_named(advice: Callable[[], str]) -> Iterator[None]:
    """ConfigError with `advice` where the memory does not suffice within."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"out of memory: {advice()}") from error
