"""Copies episodes without what they say of their robot, as another recorder might have written them.

python scripts/experiments/other_robots/without_description.py data/fetch data/fetch_bare
"""

import shutil
import sys
from pathlib import Path

import h5py

DESCRIPTION = {"format_version", "robot", "joint_names", "action_layout", "action_semantics", "action_names", "env_id"}


def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in sorted(source.glob("*.hdf5")):
        with h5py.File(shutil.copy(path, target), "a") as file:
            for name in DESCRIPTION & set(file.attrs):
                del file.attrs[name]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
