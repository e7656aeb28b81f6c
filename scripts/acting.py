"""Agents and environments for a policy in a simulated task: for rollouts, evaluation in training, the viewer,
teleoperation and experiments.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium as gym

from act.agent_settings import AgentSettings
from act.errors import ConfigError
from demos.phrases import SEEN, instruction_for
from demos.record import spec_of
from demos.spec import EpisodeSpec
from demos.tasks import choose_variant
from envs import check_registered, env_id, short_name
from envs.rollout import VectorEnv, make_vector_env

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.agent import PolicyAgent
    from act.policies import Policy


@dataclass(frozen=True)
class Request:
    """What is requested of a policy in the episode of a seed."""

    variant: Callable[[int], str]
    """Seed → the requested variant of the task; "" for any."""
    instruction: Callable[[int], str | None]
    """Seed → the instruction; None: none."""


def request_for(settings: AgentSettings, policy: "Policy", task: str) -> Request:
    """What `settings` request of a policy in a task, given by its Gymnasium id.

    Raises:
        ConfigError: the task has no such variant, or the policy takes no instructions.
    """
    variants = SEEN.get(task, {"": ()})
    if settings.variant is not None and settings.variant not in variants:
        raise ConfigError(f"unknown variant {settings.variant!r} of {short_name(task)}; known: {', '.join(variants)}")
    if policy.instruction_encoder is None:
        if settings.instruction is not None or settings.variant is not None:
            raise ConfigError("the policy takes no instructions; train one with --text-encoder minilm")
        return Request(lambda seed: "", lambda seed: None)
    if settings.instruction is not None or settings.instructions == "none":
        return Request(lambda seed: settings.variant or "", lambda seed: settings.instruction)

    def variant(seed: int) -> str:
        return choose_variant(variants, seed) if settings.variant is None else settings.variant

    return Request(variant, lambda seed: instruction_for(task, variant(seed), seed, settings.instructions == "unseen"))


def resolved(settings: AgentSettings, policy: "Policy") -> AgentSettings:
    """The settings as results store them: with the horizon of the policy and the precision of its device."""
    from act.device import pick_dtype

    dtype = pick_dtype(settings.dtype, next(policy.parameters()).device)
    name = "bfloat16" if str(dtype) == "torch.bfloat16" else "float32"
    return replace(settings, horizon=settings.horizon or policy.horizon, dtype=name)


def agent_for(settings: AgentSettings, policy: "Policy", task: str) -> "PolicyAgent":
    """`act.agent.agent_from` with the instructions of a task, given by its Gymnasium id; "" for none.

    Raises:
        ConfigError: the settings do not fit the policy or the task.
    """
    from act.agent import agent_from

    return agent_from(policy, settings, request_for(settings, policy, task).instruction)


def envs_for(
    settings: AgentSettings, policy: "Policy", task: str, num_envs: int, render_mode: str | None = None
) -> VectorEnv:
    """Environments of a task with the cameras of a policy.

    Raises:
        ConfigError: the task's observations or actions are not those that the policy was trained with.
        EnvError: there is no such task.
    """
    from act.checkpoint import check_env_matches

    cameras = {name: policy.spec.cameras[name] for name in policy.cameras}
    check_registered(task)
    with gym.make(task, cameras=cameras, lazy=True, disable_env_checker=True) as env:
        check_env_matches(policy, spec_of(env))
    horizon = settings.horizon or policy.horizon
    return make_vector_env(task, num_envs, cameras=cameras, horizon=horizon, render_mode=render_mode)


def tasks_of(checkpoint: Path, spec: EpisodeSpec, task: str | None, several: bool = False) -> list[str]:
    """Gymnasium ids of the tasks that --task names for a policy.

    Args:
        spec: of the episodes that the policy was trained on.
        task: None for the only one; "all", if there may be `several`, for all of them.

    Raises:
        ConfigError: the policy was trained on several tasks, on none, or on others.
        EnvError: there is no such task.
    """
    learnt, everything = ", ".join(map(short_name, spec.env_ids)), several and task == "all"
    if (task is None or everything) and not spec.env_ids:
        raise ConfigError(f"{checkpoint} was not trained on a simulated task; name one with --task")
    if task is None and len(spec.env_ids) > 1:
        choice = "name one of them with --task, or all" if several else "name one of them with --task"
        raise ConfigError(f"{checkpoint} learnt {learnt}; {choice}")
    tasks = list(spec.env_ids) if task is None or everything else [env_id(task)]
    if len(spec.env_ids) > 1 and tasks[0] not in spec.env_ids:
        raise ConfigError(f"{checkpoint} did not learn {short_name(tasks[0])}; it learnt {learnt}")
    return tasks
