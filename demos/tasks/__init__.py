"""The motions and phrases of every task in `envs.TASKS`: demos/tasks/<name>.py holds those of envs/<name>.py."""

from importlib import import_module

import envs
from demos.tasks.task import Task as Task
from demos.tasks.task import choose_variant as choose_variant

TASKS: dict[str, Task] = {env_id: import_module(f"demos.tasks.{name}").TASK for name, env_id in envs.TASKS.items()}
"""Gymnasium id → task."""
