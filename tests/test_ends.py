"""Laws of ends: Ctrl-C ends everything within seconds, a killed process is one line, what was finished is kept."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import refusal, says
from test_training import curve, make_trainer
from tiny import write_episodes

from act.errors import ConfigError
from act.sampling import ShuffledStarts
from demos.episode import find_episodes
from envs import TASKS, gl
from envs.rollout import make_vector_env
from envs.workers import LostWorker, ParallelEnv, WorkerPool

ROOT = Path(__file__).parents[1]
CAMERAS = {"top": (12, 16)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"))


def test_environments_in_processes_leave_ctrl_c_alone_and_a_killed_one_is_named():
    before = signal.getsignal(signal.SIGINT)
    venv = make_vector_env("BimanualTransferCube-v0", 2, horizon=5)
    assert isinstance(venv, ParallelEnv)
    try:
        assert signal.getsignal(signal.SIGINT) is before
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        venv.reset(seed=[0, 1])
        for process in venv.processes:  # of a terminal
            os.kill(process.pid or 0, signal.SIGINT)
        action = np.zeros((2, 14), np.float32)
        venv.step(action)
        venv.processes[1].kill()
        venv.processes[1].join()
        assert says(refusal(lambda: venv.step(action), LostWorker), "environment 2 of 2", "SIGKILL")
    finally:
        venv.close()
    assert not any(process.is_alive() for process in venv.processes)


def test_a_pool_that_lost_a_worker_says_so_and_ends_with_what_runs():
    def lose_one() -> None:
        with WorkerPool(2, flag="--workers") as pool:
            jobs = [pool.submit(time.sleep, 600), pool.submit(time.sleep, 600)]
            multiprocessing.active_children()[0].kill()
            pool.result(jobs[0])

    def interrupt() -> None:
        with WorkerPool(1) as pool:
            pool.submit(time.sleep, 600)
            raise KeyboardInterrupt

    assert says(refusal(lose_one, LostWorker), "one of 2 worker processes", "killed", "--workers")
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not multiprocessing.active_children(), "each would have slept for 600 s"


def test_what_the_system_refuses_as_workers_start_is_one_line(monkeypatch):
    def refuse(number):
        def start(*_):
            raise OSError(number, os.strerror(number))

        return start

    for number, told in ((24, "ulimit -n 4096"), (38, "/dev/shm")):
        monkeypatch.setattr("envs.workers.ProcessPoolExecutor", refuse(number))
        assert says(refusal(lambda: WorkerPool(2, flag="--workers"), LostWorker), "worker processes", told, "--workers")


def test_a_fork_of_a_process_that_has_rendered_refuses_to_render(monkeypatch):
    monkeypatch.setattr(gl, "_rendered_by", os.getpid() + 1)
    venv = make_vector_env(TASKS["transfer_cube"], 1)
    venv.close()
    assert says(refusal(lambda: gl.make_renderer(None, 8, 8)), "forked", "rendering context")


def loader(data: Path, folder: Path, **settings):
    trainer = make_trainer(data, folder, **settings)
    trainer.dataset.frames.images = None
    return trainer


@pytest.mark.parametrize("place", ["long", "read only"])
def test_readers_need_no_temporary_folder(data, tmp_path, monkeypatch, place):
    folder = tmp_path / ("x" * 148 if place == "long" else "none")
    if place == "long":
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    trainer = loader(data, tmp_path / "run")
    order = ShuffledStarts(trainer.dataset.train, 4, 0)
    batches = list(trainer.dataset.batches(order, 0, 3, torch.device("cpu"), 2))
    assert [len(batch.action) for batch in batches] == [4, 4, 4]


def test_a_killed_reader_ends_the_training_with_one_line(data, tmp_path):
    def kill(record: dict[str, float]) -> None:
        if record["step"] == 2:
            multiprocessing.active_children()[0].kill()

    trainer = loader(data, tmp_path / "run", num_workers=2, steps=500, log_every=2, save_every=1, log=kill)
    parts = ("killed", "memory", "at step", "last.pt", "--resume", "--num-workers 0", "--cache ram")
    assert says(refusal(trainer.run), *parts)
    assert (tmp_path / "run" / "last.pt").exists()


def test_a_reader_that_is_stuck_does_not_keep_ctrl_c_waiting(data, tmp_path):
    def stick(record: dict[str, float]) -> None:
        if record["step"] == 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGSTOP)
                stuck.append(child)
            threading.Timer(2.0, os.kill, [os.getpid(), signal.SIGINT]).start()

    stuck = []
    trainer = loader(data, tmp_path / "run", num_workers=1, steps=500, log_every=2, log=stick)
    try:
        assert not trainer.run()
    finally:
        for child in stuck:  # as scripts do at their end
            child.kill()
            child.join()
    assert (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("end", ["ctrl-c", "lost"])
def test_rollouts_that_are_broken_off_are_repeated_by_the_resumed_run(data, tmp_path, end):
    settings: Any = dict(steps=8, eval_every=4, val_every=4, log_every=4, save_every=100)

    def good(policy) -> dict[str, float]:
        return {"success_rate": 0.5}

    def broken(policy) -> dict[str, float]:
        if end == "lost":
            raise ConfigError("environment 1 of 2 is lost")
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not broken off")

    whole = make_trainer(data, tmp_path / "whole", evaluate=good, **settings)
    assert whole.run()
    stopped = make_trainer(data, tmp_path / "run", evaluate=broken, **settings)
    if end == "lost":
        with pytest.raises(ConfigError, match="environment 1 of 2 is lost"):
            stopped.run()
    else:
        assert not stopped.run()
    resumed = make_trainer(data, tmp_path / "run", evaluate=good, **settings)
    assert resumed.step == 4
    assert resumed.run()
    assert curve(resumed.folder) == curve(whole.folder)


SCRIPT = """
import sys, time
from dataclasses import dataclass
from scripts.common import call, run

@dataclass
class Args:
    slow: bool = False
    deaf: bool = False
    child: bool = False

def main(args):
    if args.deaf:
        class Deaf:
            def __del__(self):
                print("ready", flush=True)
                time.sleep(0.7)
        Deaf()
    else:
        print("ready", flush=True)
    if args.child:
        call([sys.executable, __file__])
    try:
        time.sleep(60)
    finally:
        if args.slow:
            time.sleep(60)

run(main, Args)
"""


def started(path: Path, *words: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, str(path), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(2 if "--child" in words else 1):
        assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("words", "number", "code", "line"),
    [
        ((), signal.SIGINT, 130, "interrupted\n"),
        ((), signal.SIGTERM, 143, "terminated\n"),
        (("--child",), signal.SIGINT, 130, "interrupted\n"),
        (("--slow",), signal.SIGTERM, 143, "\ninterrupted again, ended at once\n"),
        (("--deaf",), signal.SIGINT, 130, "interrupted\n"),
        (("--slow",), signal.SIGINT, 130, "\ninterrupted again, ended at once\n"),
    ],
)
def test_a_signal_is_one_line_and_an_exit_code(tmp_path, words, number, code, line):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    process = started(path, *words)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    if "--slow" in words:
        time.sleep(1.0)
        os.killpg(process.pid, number)
    _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (code, line)


@pytest.mark.slow
def test_no_hang_in_kills_at_random_moments(tmp_path):
    """`KILLS` of them, 100 by default, over record, rollout, train and teleop; a table with `-s`."""
    kills, rng = int(os.environ.get("KILLS", "100")), random.Random(0)
    tiny = "--chunk-size 20 --d-model 16 --n-heads 2 --ffn-dim 32 --n-encoder-layers 1"
    common = f"--preset cpu {tiny} --batch-size 4 --val-every 5 --val-starts 8 --wandb disabled --device cpu"
    size = "--task transfer_cube --height 24 --width 32"

    def ready(words: str) -> list[str]:
        name, *rest = words.split()
        return [sys.executable, str(ROOT / "scripts" / name), *rest]

    def run(words: str) -> None:
        subprocess.run(ready(words), check=True, cwd=tmp_path, capture_output=True)

    run(f"record.py {size} --episodes 2 --out data")
    run(f"train.py --data data --out run {common} --steps 2")
    commands = {
        "record": f"record.py {size} --episodes 500 --workers 2 --out recorded",
        "rollout": "rollout.py --checkpoint run --episodes 500 --num-envs 2 --device cpu --json results.json",
        "train": f"train.py --data data --out trained {common} --steps 100000 --cache none --num-workers 2 --resume",
        "teleop": f"teleop.py {size} --out human --port 0",
    }
    table = []
    for i in range(kills):
        name = list(commands)[i % len(commands)]
        what = rng.choice(["SIGINT group", "SIGTERM main", "SIGKILL child", "SIGKILL main"])
        with (tmp_path / "told").open("w+") as told:
            process = subprocess.Popen(
                ready(commands[name]), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=told, start_new_session=True
            )
            time.sleep(rng.uniform(1.0, 25.0))
            number, victim = getattr(signal, what.split()[0]), what.split()[1]
            family = descendants(process.pid)
            workers = [pid for pid in family if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
            start = time.monotonic()
            if victim == "group":
                os.killpg(process.pid, number)
            else:
                os.kill(rng.choice(workers) if victim == "child" and workers else process.pid, number)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = None
            seconds = time.monotonic() - start
            deadline = time.monotonic() + 30  # a worker still importing sees the end of its parent afterwards
            while (left := list(filter(alive, family))) and time.monotonic() < deadline:
                time.sleep(0.2)
            told.seek(0)
            lines = [line for line in told.read().splitlines() if line and "\r" not in line and "it/s" not in line]
        table.append((name, what, code, seconds, bool(left), "Traceback" in "\n".join(lines), lines[-1:] or [""]))
        print(*table[-1], flush=True)
    assert not [row for row in table if row[2] is None], "hangs"
    assert not [row for row in table if row[4]], "left processes behind"
    assert max(row[3] for row in table) < 30
    assert not [row for row in table if row[5]], "tracebacks"
    assert find_episodes(tmp_path / "recorded")
    print(f"{kills} kills, no hang, the longest end {max(row[3] for row in table):.1f} s")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *descendants(child))]
