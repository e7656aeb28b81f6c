"""Ctrl-C while the libraries load: every script imports this first, so that it ends with one line there, too."""

import os
import signal
import sys
from pathlib import Path


def leave(number: int, frame: object) -> None:
    """Ends a script that has not begun: nothing is to be saved."""
    os.write(2, b"interrupted\n")
    os._exit(130)


_started = Path(sys.argv[0])
_is_script = _started.parent.name == "scripts" or _started.name.startswith("bimanual-")  # else a test, or a user's own
if _is_script and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
