"""Chooses the library with which MuJoCo renders if MUJOCO_GL is not set, without loading any."""

import os
import platform
import re
import socket

GIVEN = os.environ.get("MUJOCO_GL", "")
"""MUJOCO_GL before the choice."""
PATIENCE = 2.0  # s that a display has to answer
HELLO = b"l\0\x0b\0\0\0\0\0\0\0\0\0"  # of an X client: little endian, version 11.0, no authorisation
LOCAL = ("", "unix", "localhost", "127.0.0.1")


def choose_gl() -> bool:
    """Sets MUJOCO_GL to egl, of a GPU or of Mesa on a CPU, on Linux without a display; otherwise leaves the choice to
    MuJoCo. A display on another machine is assumed to exist: a check could take seconds.

    Returns:
        Whether it set it.
    """
    if os.environ.get("MUJOCO_GL") or platform.system() != "Linux":
        return False
    display = os.environ.get("DISPLAY", "")
    if display and (not _is_local(display) or display_answers(display)):
        return False
    os.environ["MUJOCO_GL"] = "egl"
    return True


def display_answers(display: str) -> bool:
    """Whether an X server answers at a display such as `:0` or `localhost:10.0`, with any answer."""
    named = re.fullmatch(r"(.*):(\d+)(\.\d+)?", display)
    if not named:
        return False
    host, number = named[1], int(named[2])
    path = f"/tmp/.X11-unix/X{number}"
    places: list[tuple[int, object]] = []
    if host in ("", "unix"):
        places += [(socket.AF_UNIX, path), (socket.AF_UNIX, f"\0{path}")]
    else:
        places.append((socket.AF_INET, (host, 6000 + number)))
    return any(_answers(family, address) for family, address in places)


def _answers(family: int, address: object) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(address)  # pyright: ignore[reportArgumentType] - a path, or host and port
            connection.sendall(HELLO)
            return bool(connection.recv(1))
    except (OSError, OverflowError, UnicodeError):
        return False


def _is_local(display: str) -> bool:
    return display.rpartition(":")[0] in LOCAL
