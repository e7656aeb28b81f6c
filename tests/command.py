"""Scripts as a person calls them, without a terminal, a GPU or a W&B login: from nothing, in forks, or in this process.

A test takes the cheapest that shows its law: `train` and `roll_out` cost their work alone, `forked` some 0.1 s more,
`script` seconds, in which torch and timm are loaded.
"""

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
ALONE = {"CUDA_VISIBLE_DEVICES": "", "WANDB_API_KEY": "", "OMP_NUM_THREADS": "1"}

# Torch and timm take ten seconds to load on an older CPU: the server of forks has done it once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch._dynamo", "timm", "mujoco", "gymnasium", "h5py", "tyro", "matplotlib.figure"])


def train(*words: object) -> None:
    """scripts/train.py in this process, on the CPU and without W&B unless the words say otherwise."""
    from scripts.train import main, parse

    default = ["--device", "cpu", "--threads", "1", "--wandb", "disabled"]
    assert main(parse([*default, *map(str, words)])) == 0


def roll_out(*words: object) -> None:
    """scripts/rollout.py likewise."""
    import tyro

    from scripts.rollout import Args, main

    main(tyro.cli(Args, args=["--device", "cpu", *map(str, words)]))


def script(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script from a folder, from nothing."""
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | ALONE, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def forked(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The same in a fork of a process that has loaded the libraries: seconds sooner."""
    [done] = ranks(1, name, *arguments, folder=folder)
    return done


def ranks(size: int, name: str, *arguments: object, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """The same in so many processes, as torchrun would start them; one result for each rank."""
    words = [str(SCRIPTS / name), *map(str, arguments)]
    return functions(size, _run_script, words, folder=folder)


SMALLEST = ["--chunk-size", "20", "--d-model", "16", "--n-heads", "2", "--ffn-dim", "32"]
SMALLEST += ["--n-encoder-layers", "1", "--n-decoder-layers", "1", "--steps", "6"]
SMALLEST += ["--batch-size", "4", "--val-every", "3", "--val-starts", "8", "--save-every", "3"]
SMALLEST += ["--log-every", "2", "--warmup-steps", "2"]
"""Flags of a training of seconds."""

RECORD = ["--task", "transfer_cube", "--episodes", "3", "--noise", "0.02", "--height", "24", "--width", "32"]
RECORD += ["--seed", "5"]


def whole_line(folder: Path) -> None:
    """Every script of the line in its turn; printed.json has what each printed."""
    data = ["--data", "data", "--out", "run", "--preset", "cpu"]
    commands = {
        "record": ("record.py", *RECORD, "--workers", 2, "--out", "data"),
        "inspect": ("inspect_data.py", "data"),
        "replay": ("replay.py", "data/episode_0.hdf5", "--video", "replay.mp4"),
        "train": ("train.py", *data, *SMALLEST, "--eval-every", 6, "--eval-episodes", 2, "--num-envs", 2),
        "rollout": (
            *("rollout.py", "--checkpoint", "run", "--episodes", 3, "--num-envs", 2, "--horizon", 50, "--videos", 1),
            *("--json", "results.json", "--temporal-ensemble-coeff", 0.01, "--replan-every", 5, "--wandb", "offline"),
        ),
    }
    printed = {}
    for name, (which, *arguments) in commands.items():
        done = forked(which, *arguments, folder=folder)
        assert done.returncode == 0, done.stderr
        printed[name] = done.stdout
    (folder / "printed.json").write_text(json.dumps(printed))


def functions(size: int, call: Callable, *given: object, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Calls a function of a module in so many forks, as torchrun would start them; one result for each rank."""
    with tempfile.TemporaryDirectory() as place:
        outputs = [(Path(place, f"out_{rank}"), Path(place, f"err_{rank}")) for rank in range(size)]
        world = _world(size)
        processes = [
            FORKS.Process(target=_run, args=(call, given, folder, os.environ | ALONE | each, *output))
            for each, output in zip(world, outputs, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [
            subprocess.CompletedProcess(
                [str(each) for each in given], process.exitcode or 0, out.read_text(), err.read_text()
            )
            for process, (out, err) in zip(processes, outputs, strict=True)
        ]


def _world(size: int) -> list[dict[str, str]]:
    """What torchrun puts into the environment of each rank; nothing for a single process."""
    if size == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    worlds = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
    return [{name: str(value) for name, value in world.items()} for world in worlds]


def _run(call: Callable, given: tuple, folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    call(*given)


def _run_script(words: list[str]) -> None:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
