"""What every script shares: command line in, one clear line out when the user can mend what went wrong."""

import atexit
import errno
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from act.stopping import AGAIN
from scripts import terminal
from scripts.deprecated import DEPRECATED_FLAGS as DEPRECATED_FLAGS
from scripts.deprecated import upgrade_flags
from scripts.early import leave

Args = TypeVar("Args")

USER_ERRORS = {"demos.spec": "EpisodeError", "act.errors": "ConfigError", "envs": "EnvError"}
"""Module → its exception for the person at the keyboard."""

REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG)
"""What the machine says where it does not let a file or a terminal be written or read."""


class LostScript(Exception):
    """A script that this one runs was killed."""


_children: list[subprocess.Popen] = []  # scripts that this one has run


class Terminated(KeyboardInterrupt):
    """SIGTERM: the script ends as at Ctrl-C."""


def run(main: Callable[[Args], int | None], parse: type[Args] | Callable[[list[str]], Args]) -> NoReturn:
    """Parses the command line, runs `main` and ends the process with its exit code.

    Mistakes of the user, a full disk and a lost worker become one line on stderr and exit code 2. Ctrl-C gives 130 and
    SIGTERM 143, with the words of the KeyboardInterrupt that arrives here; a second signal ends the process at once.
    Where nobody reads the output any more (`| head`), the process ends without a word, with 141 as if by SIGPIPE. Any
    other exception is a mistake of ours and keeps its traceback.

    Args:
        main: takes the parsed arguments; returns the exit code, None for 0.
        parse: a dataclass that tyro turns into a command line, or a function of the words behind the script's name.
    """
    terminal.prepare()
    stopped: list[int] = []
    atexit.register(_leave, stopped)  # the first one registered is called last
    _catch_signals()
    try:
        argv = upgrade_flags(_script_name(), sys.argv[1:], _note)
        args: Any = tyro.cli(parse, args=argv) if isinstance(parse, type) else parse(argv)
        code = main(args)
        sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt as stop:
        word, code = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        print(f"{word}: {stop}" if str(stop) else word, file=sys.stderr)
        stopped.append(code)
        sys.exit(code)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)
        if not (line := _line_for_user(error)):
            raise
        print("error: " + line.replace("\n", "\\n"), file=sys.stderr)  # a name may have several lines
        sys.exit(2)
    finally:
        end_workers()
        terminal.let_go()


def _script_name() -> str:
    """File name without .py of the script that runs, also where it runs as a command of the installed package."""
    return Path(sys.argv[0]).stem.removeprefix("bimanual-").replace("-", "_")


def _note(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes torchrun has started
        print(line, file=sys.stderr)


def _leave(stopped: Sequence[int]) -> None:
    """Leaves the interpreter at once where a signal has ended the script: to take torch down lasts seconds."""
    if stopped:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(stopped[0])


def _catch_signals() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt and Terminated; the second of them ends the process at once.

    Python drops an exception that a handler raises in the middle of a destructor or a callback of C code. So it is
    raised again every second until it is on its way up.
    """
    first, ending = 0.0, KeyboardInterrupt

    def stop(number: int, frame: object) -> None:
        nonlocal first, ending
        if not first:
            first, ending = time.monotonic(), KeyboardInterrupt if number == signal.SIGINT else Terminated
            if hasattr(signal, "setitimer"):  # not on Windows
                signal.signal(signal.SIGALRM, insist)
                signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
            raise ending
        if time.monotonic() - first > AGAIN:
            end_at_once(128 + number)

    def insist(number: int, frame: object) -> None:
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                return
            error = error.__context__
        raise ending

    def tell(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            usual_hook(dropped)

    usual_hook, sys.unraisablehook = sys.unraisablehook, tell
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) in (handler, leave):  # else whoever started the process wants it ignored
            signal.signal(number, stop)


def end_at_once(code: int) -> NoReturn:
    """Ends the process and its workers without any clean-up. Files appear when they are whole, so none is damaged."""
    os.write(2, b"\ninterrupted again, ended at once\n")
    end_workers()
    os._exit(code)


def end_workers() -> None:
    """Kills the processes that this one has started and that still run: nobody waits for them any more."""
    if hasattr(signal, "setitimer"):  # neither is there on Windows
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a DataLoader's handler would complain
    for child in (*multiprocessing.active_children(), *_children):
        child.kill()


@contextmanager
def ranks() -> Iterator[tuple[int, int, Callable[[], object]]]:
    """Rank and number of the processes that torchrun started, and a function that waits for all of them.

    Alone, (0, 1, a function that returns at once), without importing torch.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield 0, 1, lambda: None
        return
    from act.distributed import join_world

    with join_world() as world:
        yield world.rank, world.size, lambda: world.gather(None)


def step(script: str, *arguments: object) -> float:
    """Run a script as a person would; returns its seconds. A script that fails ends this one with its exit code."""
    words = [str(word) for word in arguments]
    print(f"\n$ python scripts/{script} {' '.join(words)}", flush=True)
    start = time.perf_counter()
    call([sys.executable, str(Path(__file__).with_name(script)), *words])
    return time.perf_counter() - start


def call(words: Sequence[str], **settings: Any) -> None:
    """Runs a script that tells its own errors; one that fails ends this process with its exit code.

    Args:
        words: the command line.
        settings: of `subprocess.Popen`.

    Raises:
        LostScript: it was killed.
    """
    process = subprocess.Popen(words, **settings)
    _children.append(process)
    try:
        while (code := process.poll()) is None:
            time.sleep(0.05)  # not `wait`: Ctrl-C would wait there for another 0.25 s
    except KeyboardInterrupt as stop:
        # A terminal has sent it Ctrl-C, too, and it counts both as one. It has something to save, so it is waited for.
        process.send_signal(signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
        code = process.wait() or 130
    if code < 0:
        name = " ".join(words[1:2]) if words[0] == sys.executable else words[0]
        raise LostScript(
            f"{name} was killed by {signal.Signals(-code).name}, by hand or for want of memory; what it saved is kept, "
            "and the same command goes on there"
        )
    if code:
        sys.exit(code)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells → a table for the screen: names on the left, figures flush right below their heads."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])) for line in lines)
    return "\n".join("  ".join(row) for row in rows)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first one the heads, as a table that also reads well on a screen."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *body = (" | ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join(f"| {line} |" for line in (head, " | ".join("-" * width for width in widths), *body))


def _nobody_reads() -> bool:
    """Whether the reader of stdout or stderr is gone; what is still to be written there goes nowhere then."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream, 0)
        if poll.poll(0):  # without events to wait for it tells errors alone
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            gone = True
    return gone


def _line_for_user(error: Exception) -> str:
    """What to tell about an error that the user can mend; empty for any other."""
    # Without importing: an exception can only come from a module that is loaded, and some scripts need no simulator.
    loaded: list[Any] = [getattr(sys.modules[name], kind) for name, kind in USER_ERRORS.items() if name in sys.modules]
    if isinstance(error, (LostScript, *loaded)):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptor is left; raise their number with `ulimit -n 4096` and run the same command again"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'output'}: no space left on the device; make room and run the same command again"
    if isinstance(error, OSError) and error.errno in REFUSED:
        return f"{error.filename or 'output'}: {(error.strerror or str(error)).lower()}; name another place, or mend it"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({str(error).splitlines()[0] if str(error) else 'it gave no more'}); use less at a time"
    return ""
