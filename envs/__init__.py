"""Simulation: bimanual MuJoCo tasks with the Gymnasium API, and the loop that rolls agents out in them."""

import importlib
import sys
from contextlib import suppress

import gymnasium as gym

from envs.display import choose_gl

# MuJoCo chooses its rendering library on import; if it was imported before, it has to choose again.
if choose_gl():
    for _name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
        if _name in sys.modules:
            with suppress(Exception):  # envs.gl raises when something is rendered
                importlib.reload(sys.modules[_name])


class EnvError(ValueError):
    """A request that the simulation cannot meet: one line with what was wrong, what was given and what would work."""


_NAMES = (
    "transfer_cube",
    "insertion",
    "hand_over",
    "give_cube",
    "lift_tray",
    "stack",
    "tip",
)
"""The only list of tasks. A new task is one line here; envs/<name>.py with its class <Name>Env; demos/tasks/<name>.py
with its motions and phrases."""

TASKS: dict[str, str] = {}
"""Short task name of the command line → Gymnasium id."""
for _name in _NAMES:
    _camel = "".join(word.capitalize() for word in _name.split("_"))
    TASKS[_name] = f"Bimanual{_camel}-v0"
    gym.register(TASKS[_name], entry_point=f"envs.{_name}:{_camel}Env")


def short_name(env_id: str) -> str:
    """The short name of a task given by its Gymnasium id; the id itself if it is not one of `TASKS`."""
    return next((name for name, known in TASKS.items() if known == env_id), env_id)


def env_id(task: str) -> str:
    """The Gymnasium id of a task given by its short name or by the id itself.

    Raises:
        EnvError: for an unknown task; the message lists the known ones.
    """
    if task in TASKS.values():
        return task
    if task not in TASKS:
        raise EnvError(f"unknown task {task!r}; known tasks: {', '.join(TASKS)}")
    return TASKS[task]


def check_registered(name: str) -> None:
    """Refuses an id that is not registered. Gymnasium imports the module of an id "module:Name-v0", and ids from data
    files and checkpoints must not run code.

    Raises:
        EnvError: the message lists the known tasks.
    """
    if name not in gym.registry:
        raise EnvError(f"there is no environment {name!r}; known tasks: {', '.join(TASKS)}")
