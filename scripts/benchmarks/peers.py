"""Peers in a virtual environment of their own: one process that stays, so that both sides can be measured in turn."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from act.errors import ConfigError

PROGRAM = Path(__file__).with_name("peer_program.py")


class Peer:
    """An interpreter with LeRobot and gym-aloha in it, running `peer_program.py`.

    Args:
        python: the interpreter.

    Raises:
        ConfigError: it does not start, or a package that a measurement needs is missing.
    """

    def __init__(self, python: Path):
        self.python = python
        environment = {"HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl", **os.environ}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            environment.pop(name, None)
        try:
            self._process = subprocess.Popen(
                [python, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        except OSError as error:
            raise ConfigError(f"--peer-python {python} does not start: {error.strerror}") from error

    def ask(self, work: str, **settings: Any) -> Any:
        """Does one piece of work and returns its figure; preparations are made at the first of its kind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"work": work, **settings}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise ConfigError(f"the peer {self.python} ended while it did {work}; what it said stands above")
        told = json.loads(answer)
        if "error" in told:
            raise ConfigError(f"the peer {self.python} cannot do {work}: {told['error']}")
        return told["value"]

    def doing(self, work: str, **settings: Any) -> Callable[[], float]:
        """The same as a function."""
        return lambda: self.ask(work, **settings)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_) -> None:
        self._process.communicate()  # the end of its input is its end
