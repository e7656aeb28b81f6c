"""Ctrl-C and SIGTERM during a training: the first signal stops it after a checkpoint."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.5  # s: a signal that follows sooner is the same one, sent by the terminal and by a parent, torchrun say


class StopSignals:
    """A context in which the first SIGINT or SIGTERM sets `asked`, which the training checks between two steps. The
    second one is handled as before the context.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._first = 0.0

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that may be interrupted: a signal raises KeyboardInterrupt in it; one that came before, at its start."""
        if self.asked:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: object) -> None:
        if not self.asked:
            self.asked, self._first = True, time.monotonic()
            if self._at_once:
                raise KeyboardInterrupt
        elif time.monotonic() - self._first > AGAIN:
            self.__exit__()
            signal.raise_signal(number)
