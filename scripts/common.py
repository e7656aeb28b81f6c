"""What every script shares: command line in, one clear line out when the user can mend what went wrong."""

import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

Args = TypeVar("Args")

USER_ERRORS = {"demos.spec": "EpisodeError", "act.errors": "ConfigError", "envs": "EnvError"}
"""Module → its exception for the person at the keyboard."""


def run(main: Callable[[Args], int | None], parse: type[Args] | Callable[[list[str]], Args]) -> NoReturn:
    """Parses the command line, runs `main` and ends the process with its exit code.

    Mistakes of the user and a full disk become one line on stderr and exit code 2, Ctrl-C 130. Where nobody reads the
    output any more (`| head`), the process ends without a word, with 141 as if by SIGPIPE. Any other exception is a
    mistake of ours and keeps its traceback.

    Args:
        main: takes the parsed arguments; returns the exit code, None for 0.
        parse: a dataclass that tyro turns into a command line, or a function of the words behind the script's name.
    """
    try:
        args: Any = tyro.cli(parse) if isinstance(parse, type) else parse(sys.argv[1:])
        code = main(args)
        sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)
        if not (line := _line_for_user(error)):
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


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
    code = subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *words], check=False).returncode
    if code:
        sys.exit(code)
    return time.perf_counter() - start


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
    if isinstance(error, tuple(loaded)):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'output'}: no space left on the device; make room and run the same command again"
    return ""
