"""Imports MuJoCo with any value of MUJOCO_GL, and makes its renderer or says in one line why it cannot render.

MuJoCo loads the library that MUJOCO_GL names on import. Physics does not need it: if the library cannot be loaded,
MuJoCo is imported without one, and an error is raised only when something is rendered. All modules import `mujoco`
from here.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import importlib
import os
import platform
import re
import sys
import warnings
from typing import Any

from envs import EnvError
from envs.display import GIVEN, display_answers

OFF = ("disable", "disabled", "off", "false", "0")
DEFAULT = ("", "enable", "enabled", "on", "true", "1")
KNOWN = {"Linux": ("egl", "osmesa", "glfw"), "Darwin": ("cgl", "glfw"), "Windows": ("wgl", "glfw")}
"""System → values of MUJOCO_GL."""

_refusal: Exception | None = None  # raised as the library was loaded
_rendered_by: int | None = None  # the process that made the first context
_works = False  # a context was made already

try:
    import mujoco as mujoco
except Exception as _error:  # PyOpenGL and MuJoCo raise many types
    _refusal, _chosen = _error, os.environ.get("MUJOCO_GL", "")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        import mujoco as mujoco
    finally:
        os.environ["MUJOCO_GL"] = _chosen


def check_gl() -> None:
    """Checks that rendering works, by making a context once per process.

    If MUJOCO_GL is not set and the display does not answer, EGL is used, and a line on stderr says so.

    Raises:
        EnvError: it does not; names the variable to change, its value, and what would work.
    """
    global _works
    if _works:
        return
    name = os.environ.get("MUJOCO_GL", "").lower().strip()
    system, display = platform.system(), os.environ.get("DISPLAY", "")
    if name in OFF:
        raise EnvError(f"MUJOCO_GL={name} switches rendering off, and images are needed; {_instead()}")
    if name not in DEFAULT + KNOWN.get(system, (name,)) and name != "glx":
        raise EnvError(f"MUJOCO_GL={os.environ['MUJOCO_GL']} is not a rendering library; {_instead()}")
    on_display = system == "Linux" and name not in ("egl", "osmesa")
    if on_display and display and not display_answers(display):
        reason = f"no X server answers at DISPLAY={display}"
    elif on_display and not display and not os.environ.get("WAYLAND_DISPLAY"):
        reason = "DISPLAY is not set"
    else:
        reason = _try_context()
    if reason and on_display and name in DEFAULT:
        os.environ["MUJOCO_GL"] = name = "egl"
        _say(f"{reason}: rendering off-screen through EGL instead")
        reason = _reload() or _try_context()
    elif not reason and name == "egl" and not GIVEN and display:
        _say(f"no X server answers at DISPLAY={display}: rendering off-screen through EGL instead")
    if reason:
        raise EnvError(_why(name, reason))
    _works = True


def make_renderer(model: Any, height: int, width: int) -> Any:
    """A `mujoco.Renderer` for images of this size.

    Raises:
        EnvError: see `check_gl`; or the images are too large for the library; or this process was forked from one with
            a rendering context, and would hang.
    """
    if _rendered_by not in (None, os.getpid()):
        raise EnvError(
            "a process forked from one with a rendering context cannot render; use envs.rollout.make_vector_env, or "
            'gymnasium.make_vec(…, vectorization_mode="async", vector_kwargs={"context": "spawn"})'
        )
    check_gl()
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # PyOpenGL and MuJoCo raise many types
        raise EnvError(f"images of {height} × {width} cannot be rendered here: {_line(error)}") from error


def _try_context() -> str:
    """Makes and frees a context. Returns the reason of a failure, or ""."""
    global _rendered_by
    if _refusal is not None:
        return _line(_refusal)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _rendered_by = os.getpid()
            context = _module().GLContext(16, 16)
            try:
                if context._context:
                    context.make_current()
                    return ""
            finally:
                context.free()
        except Exception as error:  # PyOpenGL and MuJoCo raise many types
            return _line(error)
    return _line(caught[0].message) if caught else "no context could be made"


def _module() -> Any:
    """MuJoCo's module with the class of its contexts, which moved between versions."""
    names = ("mujoco.rendering.classic.gl_context", "mujoco.gl_context")
    return next(sys.modules[name] for name in names if name in sys.modules)


def _reload() -> str:
    """Makes MuJoCo load its library again. Returns the reason of a failure, or ""."""
    global _refusal
    try:
        importlib.reload(_module())
        _refusal = None
        return ""
    except Exception as error:  # PyOpenGL and MuJoCo raise many types
        return _line(error)


def _why(name: str, reason: str) -> str:
    """The error message for a library that cannot be used."""
    device, pyopengl = os.environ.get("MUJOCO_EGL_DEVICE_ID"), os.environ.get("PYOPENGL_PLATFORM", "")
    if pyopengl and "PYOPENGL_PLATFORM" in reason and name in ("egl", "osmesa"):
        return f"PYOPENGL_PLATFORM={pyopengl} does not go with MUJOCO_GL={name}; unset it"
    if name == "egl" and device is not None:
        if numbers := re.search(r"between 0 and (-?\d+)", reason):
            last = int(numbers[1])
            known = f"are 0 to {last}" if last > 0 else "are only 0" if last == 0 else "are none"
            reason = f"the EGL devices of this machine {known}"
        elif not re.fullmatch(r"\s*-?\d+\s*", device):
            reason = "it must be a number, as 0"
        return f"MUJOCO_EGL_DEVICE_ID={device} cannot be used: {reason}; unset it, or name another device"
    if name == "osmesa":
        return f"MUJOCO_GL=osmesa needs the library OSMesa, which cannot be used here ({reason}); {_instead(name)}"
    if name == "egl":
        given = "MUJOCO_GL=egl" if GIVEN else "there is no display, and EGL"
        return (
            f"{given} cannot be used here ({reason}); install a driver with EGL (Mesa's: libegl1 and libgl1), or use "
            "MUJOCO_GL=osmesa, or MUJOCO_GL=glfw with a display"
        )
    return f"MUJOCO_GL={name} cannot be used here: {reason}; {_instead(name)}"


def _instead(name: str = "") -> str:
    others = [other for other in KNOWN.get(platform.system(), ()) if other != name]
    return f"unset it, or use {' or '.join(others)}" if others else "unset it"


def _line(error: object) -> str:
    """The cause of an error in one line, without a full stop."""
    cause = getattr(error, "__cause__", None) or error
    return " ".join(str(cause).split()).rstrip(".") or type(cause).__name__


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
