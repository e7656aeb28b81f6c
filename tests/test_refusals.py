"""Laws of what a machine refuses: each is one line that names what was given and what would work."""

import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import gymnasium as gym
import pytest

from envs import EnvError, display, gl

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
    ("variable", "value", "line"),
    [
        ("MUJOCO_GL", "foo", "MUJOCO_GL=foo names nothing to render with; unset it, or use egl or osmesa or glfw"),
        ("MUJOCO_GL", "cgl", "MUJOCO_GL=cgl names nothing to render with; unset it, or use egl or osmesa or glfw"),
        (
            "MUJOCO_GL",
            "off",
            "MUJOCO_GL=off switches rendering off, and pictures are asked for; unset it, or use egl or osmesa or glfw",
        ),
        (
            "MUJOCO_GL",
            "glfw",
            "MUJOCO_GL=glfw cannot be used here: DISPLAY is not set; unset it, or use egl or osmesa",
        ),
    ],
)
def test_a_library_that_cannot_be_is_one_line(unset, monkeypatch, variable, value, line):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setenv(variable, value)
    with pytest.raises(EnvError) as caught:
        gym.make("BimanualTransferCube-v0", cameras=("top",))
    assert str(caught.value) == line
    gym.make("BimanualTransferCube-v0").reset(seed=0)


def test_a_library_that_is_not_there_is_one_line(unset, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(gl, "_refusal", AttributeError("'NoneType' object has no attribute 'glGetError'"))
    with pytest.raises(EnvError, match=r"^MUJOCO_GL=osmesa needs the library OSMesa.*; unset it, or use egl or glfw$"):
        gl.check_gl()
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(EnvError, match=r"^there is no display, and EGL cannot be used here \(.*; install .*libegl1"):
        gl.check_gl()


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and X are Linux's")
@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"MUJOCO_GL": "foo"}, "MUJOCO_GL=foo names nothing"),
        ({"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "glx"}, "PYOPENGL_PLATFORM=glx does not go with MUJOCO_GL=egl"),
        ({"MUJOCO_EGL_DEVICE_ID": "500"}, "MUJOCO_EGL_DEVICE_ID=500 cannot be used: the EGL devices of this machine "),
        ({"MUJOCO_EGL_DEVICE_ID": "gpu"}, "MUJOCO_EGL_DEVICE_ID=gpu cannot be used: it must be a number, as 0; unset"),
    ],
)
def test_physics_need_no_gl_and_pictures_say_what_is_wrong(environment, line):
    out, err = drawn(**environment)
    assert out.startswith(line)
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="EGL and X are Linux's")
def test_a_display_that_is_gone_does_not_keep_egl_away():
    assert drawn(DISPLAY=":987") == (
        "True\n",
        "no X server answers at DISPLAY=:987: rendering off-screen through EGL instead\n",
    )


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
    with pytest.raises(EnvError, match=r"^pictures of 8 × 8 cannot be rendered here: Offscreen .* complete, error 0x"):
        env.reset(seed=0)
