"""Laws of what a machine refuses: each is one line that names what was given and what would work."""

import errno
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch
from messages import refusal, says
from tiny import BLIND, SPEC, write_episodes

from act.agent import PolicyAgent
from act.chunking import RecedingHorizon
from act.dataset import ChunkDataset
from act.policies import Policy
from act.run_folder import RunFolder
from act.train import Trainer
from act.train_config import TrainConfig
from envs import display, gl
from scripts.common import _line_for_user

PICTURES = (
    "import gymnasium as gym, envs\n"
    "gym.make('BimanualTransferCube-v0').reset(seed=0)\n"
    "try:\n"
    "    env = gym.make('BimanualTransferCube-v0', cameras=('top',), height=8, width=8)\n"
    "    print(env.reset(seed=0)[0]['images/top'].any())\n"
    "except envs.EnvError as error: print(error)"
)
"""Physics, which need no GL, and a picture, which does."""


def drawn(**environment: str) -> tuple[str, str]:
    """What `PICTURES` prints, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run([sys.executable, "-c", PICTURES], capture_output=True, text=True, env=clean | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def unset(monkeypatch):
    """A machine where nothing was chosen or tried yet."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_EGL_DEVICE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gl, "_works", False)
    monkeypatch.setattr(gl, "GIVEN", "")


@pytest.mark.parametrize(("system", "chosen"), [("Linux", "egl"), ("Darwin", None), ("Windows", None)])
def test_only_linux_is_told_to_render_off_screen(unset, monkeypatch, system, chosen):
    monkeypatch.setattr(platform, "system", lambda: system)
    assert display.choose_gl() == (chosen is not None)
    assert os.environ.pop("MUJOCO_GL", None) == chosen


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("foo", ["egl", "osmesa", "glfw"]),
        ("cgl", ["egl", "osmesa", "glfw"]),
        ("off", ["rendering off", "egl", "osmesa", "glfw"]),
        ("glfw", ["DISPLAY", "egl", "osmesa"]),
    ],
)
def test_a_library_that_cannot_be_is_one_line(unset, monkeypatch, value, parts):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setenv("MUJOCO_GL", value)
    line = refusal(lambda: gym.make("BimanualTransferCube-v0", cameras=("top",)))
    assert says(line, f"MUJOCO_GL={value}", "unset", *parts)
    gym.make("BimanualTransferCube-v0").reset(seed=0)


def test_a_library_that_is_not_there_is_one_line(unset, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(gl, "_refusal", AttributeError("'NoneType' object has no attribute 'glGetError'"))
    assert says(refusal(gl.check_gl), "MUJOCO_GL=osmesa", "OSMesa", "unset", "egl", "glfw")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert says(refusal(gl.check_gl), "display", "EGL", "install", "libegl1")


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and X are Linux's")
@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"MUJOCO_GL": "foo"}, ["egl"]),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "glx"}, []),
        ({"MUJOCO_EGL_DEVICE_ID": "500"}, ["EGL devices"]),
        ({"MUJOCO_EGL_DEVICE_ID": "gpu"}, ["number", "unset"]),
    ],
)
def test_physics_need_no_gl_and_pictures_say_what_is_wrong(environment, parts):
    out, err = drawn(**environment)
    assert says(out, *(f"{name}={value}" for name, value in environment.items()), *parts)
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and X are Linux's")
def test_a_display_that_is_gone_does_not_keep_egl_away():
    out, err = drawn(DISPLAY=":987")
    assert (out, err.count("\n")) == ("True\n", 1)
    assert says(err, "DISPLAY=:987", "EGL")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Of display 986, which says nothing yet."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0/tmp/.X11-unix/X986")
        server.listen()
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="a socket without a file is Linux's")
def test_a_display_answers_or_not(server, monkeypatch):
    monkeypatch.setattr(display, "PATIENCE", 0.1)
    assert not display.display_answers(":986"), "it takes the call and keeps silent"
    monkeypatch.setattr(display, "PATIENCE", 5.0)
    server.accept()[0].close()

    def answer() -> None:
        with server.accept()[0] as connection:
            connection.recv(12)
            connection.sendall(b"\1")

    thread = threading.Thread(target=answer)
    thread.start()
    assert display.display_answers(":986.0")
    thread.join()
    for wrong in ("", "nonsense", ":", ":985", "localhost:70000", "unix:985"):
        assert not display.display_answers(wrong)


def test_a_picture_that_no_library_can_draw_is_one_line(monkeypatch):
    def refuse(*_: object) -> None:
        raise RuntimeError("Offscreen framebuffer is not complete,\nerror 0x8cdd.")

    monkeypatch.setattr(gl.mujoco, "Renderer", refuse)
    env = gym.make("BimanualTransferCube-v0", cameras=("top",), height=8, width=8)
    assert says(refusal(lambda: env.reset(seed=0)), "8 × 8", "Offscreen framebuffer is not complete", "error 0x8cdd")


def run_in(code: str, environment: dict[str, str] | None = None, shell: str = '"$@"') -> subprocess.CompletedProcess:
    """A script of our kind in a process of its own, its streams as `shell` arranges them."""
    script = SCRIPT.replace("CODE", code).encode("ascii", "backslashreplace").decode()
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, env={**os.environ, **(environment or {})})


SCRIPT = """
from dataclasses import dataclass
from tqdm import tqdm
from scripts.common import run

@dataclass
class Args:
    '''jerk in rad/s² …'''
    length: float = 1.0
    '''Of × in rad/s³, 0 … 1.'''

def main(args):
    CODE

run(main, Args)
"""
PRINTS = "for _ in tqdm(range(2), 'größe'): print('jerk 1.0 rad/s³ … – × 2 ─│█ 日')"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_a_terminal_without_some_letters_gets_others(environment):
    done = run_in(PRINTS, environment)
    assert (done.returncode, done.stdout) == (0, b"jerk 1.0 rad/s3 ... - x 2 -|# ?\n" * 2)
    assert b"Error" not in done.stderr
    helped = run_in(PRINTS, environment, '"$@" --help')
    assert (helped.returncode, helped.stderr) == (0, b"")
    assert b"jerk in rad/s2 ..." in helped.stdout


@pytest.mark.parametrize(
    ("shell", "code", "told"),
    [
        ('"$@" >/dev/full', 2, ["error: output", "no space left on the device"]),
        ('"$@" 2>/dev/full', 0, []),
        ('"$@" >&-', 0, []),
        ('"$@" 2>&- >&- <&-', 0, []),
    ],
)
def test_a_terminal_that_is_full_or_closed(tmp_path, shell, code, told):
    """What is closed is not taken for the next file that is opened, and what is done is done."""
    file = tmp_path / "result"
    done = run_in(f"file = open('{file}', 'w'); file.write('whole'); file.close()\n    {PRINTS}", shell=shell)
    assert done.returncode == code
    assert file.read_text() == "whole"
    lines = done.stderr.decode().replace("\r", "\n").splitlines()
    assert not any("Traceback" in line for line in lines)
    assert says(lines[-1] if told else "", *told)


def test_a_home_that_cannot_be_written_is_not_lamented(tmp_path):
    nowhere = {name: "/proc/nowhere" for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    code = f"from demos.pictures import joint_plots; import matplotlib.figure; open('{tmp_path / 'done'}', 'w').close()"
    done = run_in(code, nowhere, 'unset MPLCONFIGDIR; "$@"')
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "done").exists()


def test_the_machine_s_refusals_are_one_line():
    for error, *parts in (
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b", "permission denied"),
        (OSError(errno.EIO, "Input/output error"), "output", "input/output error"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory.\nlong"), "out of memory", "CUDA out of memory"),
    ):
        assert says(_line_for_user(error), *parts)
        assert "\n" not in _line_for_user(error)
    assert _line_for_user(RuntimeError("a bug")) == ""


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    dataset = ChunkDataset(write_episodes(tmp_path / "data"), 6, cameras=(), val_fraction=0)
    policy = Policy(BLIND, dataset.spec)
    policy.fit_normalizer(dataset.stats())
    dataset.cache("ram", torch.device("cpu"))
    folder = RunFolder(tmp_path / "run")
    folder.claim({}, resume=True, free=set())
    config = TrainConfig(steps=4, batch_size=4, val_fraction=0, device="cpu", save_every=2, threads=1)
    return Trainer(policy, dataset, config, folder)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", [1, 4])
def test_a_step_that_memory_is_too_small_for_names_what_would_take_less(trainer, monkeypatch, error, step):
    forward = trainer.policy.forward

    def refuse(batch):
        if trainer.step == step:
            raise error
        return forward(batch)

    monkeypatch.setattr(trainer.policy, "forward", refuse)
    kept = "nothing was saved" if step == 1 else trainer.folder.last
    parts = ("out of memory", "cpu", "--batch-size 4", "--accumulate 1", "--accumulate 2", kept)
    assert says(refusal(trainer.run), *parts)
    assert trainer.folder.last.exists() == (step > 1)


def test_other_errors_of_a_step_are_ours(trainer, monkeypatch):
    def fail(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(trainer.policy, "forward", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        trainer.run()


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:3], ids=lambda error: type(error).__name__)
def test_an_answer_that_memory_is_too_small_for_names_the_environments(monkeypatch, error):
    policy = Policy(BLIND, SPEC)
    agent = PolicyAgent(policy, RecedingHorizon(policy.chunk_size))

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(agent, "_answer", refuse)
    agent.reset([0, 1], {})
    observation = {"qpos": np.zeros((2, 14), np.float32), "env_state": np.zeros((2, 7), np.float32)}
    assert says(refusal(lambda: agent(observation)), "out of memory", "cpu", "2 environments", "--num-envs")
