"""The scripts as commands of an installed package: `bimanual-train --data …` is `python scripts/train.py --data …`."""

import runpy
import sys
from pathlib import Path

RENAMED = {"bimanual-inspect_data": "bimanual-inspect-data", "bimanual-ways": "bimanual-latent-plot"}
"""Old command → new command. Old commands still work in this version and print one line on stderr."""
REMOVED = {"bimanual-study": "bimanual-experiment study"}
"""Command that is gone → the command that does its work."""


def main() -> None:
    """Runs the script that the command is named after."""
    command = Path(sys.argv[0]).name.removesuffix(".exe")
    if command in REMOVED:
        print(f"error: {command} was removed; use {REMOVED[command]}", file=sys.stderr)
        sys.exit(2)
    if command in RENAMED:
        print(f"note: {command} is now called {RENAMED[command]}", file=sys.stderr)
    script = RENAMED.get(command, command).removeprefix("bimanual-").replace("-", "_")
    runpy.run_module(f"scripts.{script}", run_name="__main__")
