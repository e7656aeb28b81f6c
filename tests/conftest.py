"""What all tests share: the environment of their processes, and one tiny run through the real scripts."""

import fcntl
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Two test processes with one thread each: tensors are tiny here, and threads that wait for each other are slow.
# Some tests compare runs bit by bit, across processes too, which more threads could upset.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell lets commands that it starts in the background ignore Ctrl-C, and so would the scripts under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Line:
    """The whole line, tiny. Tests read it, and copy what they change."""

    folder: Path
    """data/ has three noisy demonstrations, run/ what was trained on them, results.json a rollout of it."""
    printed: dict[str, str]
    """Script → what it printed."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="session")
def line(tmp_path_factory) -> Line:
    """Record, look, replay, train with rollouts, and roll out, as a person does; once for all test processes."""
    from command import whole_line

    folder = once(tmp_path_factory, "line", whole_line)
    return Line(folder, json.loads((folder / "printed.json").read_text()))


def once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first test process that needs it fills, and all of them read."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, whole = base / name, base / f"{name}.whole"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder
