"""The loop that runs agents in vector environments, for recording, evaluation, videos and teleoperation.

It is the only place that pairs the observation at step t with the action commanded at t.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import check_registered
from envs.workers import ParallelEnv

VectorEnv = ParallelEnv | SyncVectorEnv
"""Several environments, in processes of their own or in this one."""


class Agent(Protocol):
    """Acts in N episodes at once: a demonstrator, a trained policy, a person."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras whose images it uses."""
        ...

    def reset(self, seeds: Sequence[int], observation: Mapping[str, np.ndarray]) -> None:
        """Starts N new episodes."""

    def needs_images(self) -> bool:
        """Whether the next call needs images; otherwise nothing is rendered."""
        ...

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Batched observation, (N, …) each → actions (N, 14) float32."""
        ...


@dataclass
class Step:
    """One control step of a wave of n episodes that run in parallel; n is the first axis of all arrays."""

    t: int
    seeds: tuple[int, ...]
    observation: dict[str, np.ndarray]  # at t, before the action; images only if they were rendered
    action: np.ndarray  # (n, 14) float32, commanded at t
    reward: np.ndarray  # (n,) after the action
    info: dict[str, np.ndarray]  # (n,) each, after the action
    last: bool


def make_vector_env(env_id: str, num_envs: int = 1, parallel: bool | None = None, **settings: Any) -> VectorEnv:
    """`num_envs` lazy environments, in a process each if `parallel` (default: if there are several).

    Raises:
        EnvError: unknown environment, or an error of the environment; it is built once here, before workers start.
        LostWorker: a worker cannot be started, or is killed later.
    """
    check_registered(env_id)

    def build() -> gym.Env:
        import envs  # noqa: F401 - registers the tasks, in a worker too

        return gym.make(env_id, disable_env_checker=True, lazy=True, **settings)

    build().close()
    if parallel if parallel is not None else num_envs > 1:
        return ParallelEnv(build, num_envs)
    return SyncVectorEnv([build] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def render_cameras(venv: VectorEnv) -> dict[str, np.ndarray]:
    """Renders the cameras of every environment: `images/<camera>` → (N, H, W, 3) uint8."""
    pictures = venv.call("render_cameras")
    return {name: np.stack([picture[name] for picture in pictures]) for name in pictures[0]}


def rollout(
    venv: VectorEnv,
    agent: Agent,
    seeds: Sequence[int],
    always_render: bool = False,
    stop_when: Callable[[Mapping[str, np.ndarray]], bool] = lambda info: False,
) -> Iterator[Step]:
    """Runs one episode per seed, `venv.num_envs` at a time, and yields every step.

    An episode depends on its seed and the agent only, not on the number of environments: the episodes of a wave run in
    lockstep, and a last wave that is not full is padded with episodes that are not yielded.

    Args:
        always_render: render the cameras at every step, as a recording needs it.
        stop_when: from the `info` of all environments after a step: whether to end the wave.
    """
    for start in range(0, len(seeds), venv.num_envs):
        wave = tuple(int(seed) for seed in seeds[start : start + venv.num_envs])
        n, padded = len(wave), wave + wave[-1:] * (venv.num_envs - len(wave))
        observation, _ = venv.reset(seed=list(padded))
        agent.reset(padded, observation)
        t, last = 0, False
        while not last:
            if always_render or agent.needs_images():
                observation = {**observation, **render_cameras(venv)}
            action = np.asarray(agent(observation), dtype=np.float32)
            following, reward, terminated, truncated, info = venv.step(action)
            last = bool(np.all(terminated | truncated)) or stop_when(info)
            yield Step(
                t=t,
                seeds=wave,
                # Copied: a vector environment reuses its buffers.
                observation={name: np.array(value[:n]) for name, value in observation.items()},
                action=action[:n],
                reward=reward[:n],
                info={name: value[:n] for name, value in info.items() if not name.startswith("_")},
                last=last,
            )
            observation, t = following, t + 1
