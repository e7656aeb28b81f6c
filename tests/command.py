"""Scripts as a person calls them, each in a process of its own; without a terminal, a GPU or a W&B login."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
ALONE = {"CUDA_VISIBLE_DEVICES": "", "WANDB_API_KEY": "", "OMP_NUM_THREADS": "1"}

# Torch and timm take ten seconds to load on an older CPU: the server of forks has done it once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch._dynamo", "timm", "mujoco", "gymnasium", "h5py", "tyro"])


def script(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script from a folder, from nothing."""
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | ALONE, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def forked(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The same in a fork of a process that has loaded the libraries: seconds sooner."""
    words = [str(SCRIPTS / name), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        process = FORKS.Process(target=_run, args=(words, folder, os.environ | ALONE, out, err))
        process.start()
        process.join()
        return subprocess.CompletedProcess(words, process.exitcode or 0, out.read_text(), err.read_text())


def _run(words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
