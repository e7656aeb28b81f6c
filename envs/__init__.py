"""The world: bimanual MuJoCo tasks behind the Gymnasium API, and the loop that rolls agents out in them."""

import importlib
import sys
from contextlib import suppress

import gymnasium as gym

from envs.display import choose_gl

# MuJoCo chooses as it is imported, so where it was imported before us it is asked again.
if choose_gl():
    for _name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
        if _name in sys.modules:
            with suppress(Exception):  # who renders is told by envs.gl
                importlib.reload(sys.modules[_name])


class EnvError(ValueError):
    """A request that the simulator cannot meet: one line with what was wrong, what was given and what would work."""


TASKS = {
    "transfer_cube": "BimanualTransferCube-v0",
    "insertion": "BimanualInsertion-v0",
    "hand_over": "BimanualHandOver-v0",
    "give_cube": "BimanualGiveCube-v0",
    "lift_tray": "BimanualLiftTray-v0",
    "stack": "BimanualStack-v0",
    "tip": "BimanualTip-v0",
}
"""Short task names of the command line → Gymnasium ids. A new task is one file, one line here and one below."""

gym.register(TASKS["transfer_cube"], entry_point="envs.transfer_cube:TransferCubeEnv")
gym.register(TASKS["insertion"], entry_point="envs.insertion:InsertionEnv")
gym.register(TASKS["hand_over"], entry_point="envs.hand_over:HandOverEnv")
gym.register(TASKS["give_cube"], entry_point="envs.give_cube:GiveCubeEnv")
gym.register(TASKS["lift_tray"], entry_point="envs.lift_tray:LiftTrayEnv")
gym.register(TASKS["stack"], entry_point="envs.stack:StackEnv")
gym.register(TASKS["tip"], entry_point="envs.tip:TipEnv")


def short_name(env_id: str) -> str:
    """The short name of a task given by its Gymnasium id; the id itself of one that is not ours."""
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
    """Refuses what is no id of a registered environment. Of "module:Name-v0" Gymnasium would import the module, and the
    id may come from a data file or a checkpoint, which must not name code to run.

    Raises:
        EnvError: the message lists the known tasks.
    """
    if name not in gym.registry:
        raise EnvError(f"there is no environment {name!r}; known tasks: {', '.join(TASKS)}")
