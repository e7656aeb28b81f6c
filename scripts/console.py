"""The scripts as commands of an installed package: `bimanual-train --data …` is `python scripts/train.py --data …`."""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Runs the script that the command is named after."""
    runpy.run_module(f"scripts.{Path(sys.argv[0]).stem.removeprefix('bimanual-')}", run_name="__main__")
