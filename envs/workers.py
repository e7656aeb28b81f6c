"""Worker processes that end with their parent and at Ctrl-C; if one is killed, an error of one line says so.

A terminal sends Ctrl-C to every process of a command. Only the main process handles it: workers start with SIGINT
blocked, and the main process ends them.
"""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from envs import EnvError

Result = TypeVar("Result")

GRACE = 3.0  # s that workers have to close their environments before they are killed


class LostWorker(EnvError):
    """A worker process ended early, or could not be started."""


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A context in which new processes inherit a blocked SIGINT. A SIGINT to this process is delivered afterwards."""
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def main_not_imported_again() -> Iterator[None]:
    """A context in which spawned processes do not import the main script, which takes seconds to import torch.

    Environments do not need it, and a script without `if __name__ == "__main__"` would run again.
    """
    main, names = sys.modules["__main__"], ("__file__", "__spec__")
    kept = {name: getattr(main, name) for name in names if hasattr(main, name)}
    for name in kept:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


class ParallelEnv(AsyncVectorEnv):
    """Environments in one process each.

    Args:
        build: makes one environment; called in every worker, and once here.
        num_envs: how many.

    Raises:
        LostWorker: a worker was killed, here or in any later call, or the system refuses to start it.
    """

    def __init__(self, build: Callable[[], gym.Env], num_envs: int):
        self.processes = []
        # Spawned, not forked: a fork would share the parent's threads' locks and its rendering context.
        self._starting = interrupts_blocked()
        self._starting.__enter__()
        try:
            with main_not_imported_again(), refusals_named("environments in other processes", "--num-envs"):
                super().__init__(
                    [build] * num_envs, context="spawn", worker=_work, autoreset_mode=AutoresetMode.DISABLED
                )
        except BaseException:
            _kill(self.processes)
            raise
        finally:
            self._started()

    def _started(self) -> None:
        if self._starting is not None:
            self._starting, starting = None, self._starting
            starting.__exit__(None, None, None)

    def _check_spaces(self) -> None:
        self._started()  # all processes run; Ctrl-C need not wait until they have imported the simulator
        with self._lost_workers_named():
            super()._check_spaces()

    def reset(self, **settings: Any) -> Any:
        with self._lost_workers_named():
            return super().reset(**settings)

    def step(self, actions: Any) -> Any:
        with self._lost_workers_named():
            return super().step(actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with self._lost_workers_named():
            return super().call(name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        with self._lost_workers_named():
            super().set_attr(name, values)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the workers. Idle ones get `timeout` s (default 3) to close their environments; busy ones are killed at
        once, as all are with `terminate`.
        """
        if not terminate and self._state == AsyncState.DEFAULT:
            for pipe in self.parent_pipes:
                with suppress(OSError, AttributeError):  # dead, or None after its environment raised
                    pipe.send(("close", None))
            deadline = time.monotonic() + (GRACE if timeout is None else timeout)
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        _kill(self.processes)
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()

    @contextmanager
    def _lost_workers_named(self) -> Iterator[None]:
        """A broken pipe → LostWorker."""
        try:
            yield
        except (EOFError, OSError) as error:
            sentinels = {process.sentinel: i for i, process in enumerate(self.processes)}
            if not (dead := connection.wait(list(sentinels), timeout=2.0)):
                raise
            number = min(sentinels[sentinel] for sentinel in dead if isinstance(sentinel, int))
            self.processes[number].join()
            raise LostWorker(
                f"environment {number + 1} of {self.num_envs} is lost: its process {_fate(self.processes[number])}. "
                "Fewer environments at once (--num-envs) need less memory"
            ) from error


class WorkerPool:
    """Runs functions in several spawned processes. A context manager; an exception ends the processes at once.

    Args:
        workers: maximal number of processes.
        initializer, initargs: called first in each of them.
        flag: the command-line flag for their number, for errors.
    """

    def __init__(
        self, workers: int, initializer: Callable[..., object] | None = None, initargs: tuple = (), flag: str = ""
    ):
        self.workers, self.flag = workers, flag
        self._others = set(multiprocessing.active_children())
        with interrupts_blocked(), refusals_named("worker processes", flag):
            self._executor = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _start, (initializer, initargs)
            )
            # Each submission starts a process, which the executor watches from the next submission on: hence one more.
            for _ in range(workers + 1):
                self._executor.submit(int)

    def submit(self, function: Callable[..., Result], *args: Any) -> "Future[Result]":
        """Starts `function(*args)` in one of the processes; `result` waits for its value."""
        with interrupts_blocked(), self._lost_workers_named(), refusals_named("worker processes", self.flag):
            return self._executor.submit(function, *args)

    def result(self, future: "Future[Result]") -> Result:
        """The value of the function.

        Raises:
            LostWorker: a process was killed; all other work is lost with it.
        """
        with self._lost_workers_named():
            return future.result()

    def map(self, function: Callable[..., Result], *arguments: Any) -> list[Result]:
        """Results for each set of arguments, in their order."""
        futures = [self.submit(function, *each) for each in zip(*arguments, strict=True)]
        return [self.result(future) for future in futures]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            _kill([child for child in multiprocessing.active_children() if child not in self._others])
        self._executor.shutdown(cancel_futures=True)

    @contextmanager
    def _lost_workers_named(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            hint = f"; fewer of them ({self.flag}) need less memory" if self.flag else ""
            raise LostWorker(
                f"one of {self.workers} worker processes was killed, by hand or for want of memory{hint}"
            ) from error


@contextmanager
def refusals_named(what: str, flag: str) -> Iterator[None]:
    """Errors of the system as processes start → LostWorker, with what would work."""
    try:
        yield
    except OSError as error:
        fewer = f"fewer of them ({flag})" if flag else "fewer of them"
        alone = f"{flag} 1 needs none" if flag else "one process needs none"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            reason = f"no file descriptor is left; `ulimit -n 4096` before the command, or {fewer} would help"
        elif error.errno in (errno.EAGAIN, errno.ENOMEM):
            reason = f"{error.strerror}; {fewer} would help"
        else:
            reason = f"shared memory or its semaphores (/dev/shm) cannot be had: {error.strerror}; {alone}"
        raise LostWorker(f"{what} cannot start: {reason}") from error


def _work(*args: Any) -> None:
    """gymnasium's worker; ends without a traceback if its parent has ended."""
    try:
        _async_worker(*args)
    except (EOFError, OSError):
        parent = multiprocessing.parent_process()
        if parent is None or parent.is_alive():
            raise
        os._exit(1)


def _start(initializer: Callable[..., object] | None, arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    """An idle worker holds both ends of its pipes, so it would wait forever for a parent that was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _kill(processes: Sequence[BaseProcess]) -> None:
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join()


def _fate(process: BaseProcess) -> str:
    """How a process ended, in words."""
    code = process.exitcode or 0
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (", by hand or for want of memory" if name == "SIGKILL" else "")
