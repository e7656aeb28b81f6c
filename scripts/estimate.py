"""Estimate how long the quick start takes on this machine, from a few seconds of each kind of its work."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import torch

from act.device import pick_device
from act.policies import Policy, make_policy
from act.presets import PRESETS
from act.train_config import TrainConfig
from demos.demonstrators import Demonstrator
from demos.motion import HORIZON
from demos.robot import ALOHA
from demos.spec import EpisodeSpec
from envs import env_id
from envs.rollout import VectorEnv, make_vector_env, rollout
from scripts.benchmarks.learning import make_batch, timed, trainer_of

CAMERAS = {"top": (120, 160)}
MEASURED, WARM_UP = 0.4, 4  # seconds of each kind of work that are measured, after so many calls
CPU = torch.device("cpu")


def estimate(
    task: str, device: str, demonstrations: int, steps: int | None, rollouts: int, num_envs: int, workers: int
) -> dict[str, float]:
    """Seconds of recording, training and rollouts, the start of each script included.

    Args:
        steps: training steps; None for those of the preset.
        num_envs: parallel environments in rollouts.
        workers: processes that record, and that simulate here.
    """
    config, training = PRESETS["cpu"]
    training = replace(training, device=str(pick_device(device)), steps=steps or training.steps)
    queries = 10 / config.chunk_size  # of each control step, see `act.chunking.default_executor`

    began = time.perf_counter()
    with closing(make_vector_env(env_id(task), workers, parallel=True, cameras=CAMERAS)) as venv:
        started = time.perf_counter() - began
        recorded, moved = (_simulated(venv, task, always_render=each) / workers for each in (True, False))
    policy = make_policy(config, EpisodeSpec(ALOHA, CAMERAS), pretrained=False)
    encoded, trained, answered = _computed(policy, training, num_envs)

    validated = training.steps / training.val_every * training.val_starts / num_envs * 2 * answered
    per_step = moved + queries * (recorded - moved + answered / num_envs)
    return {
        "recording": started + demonstrations * HORIZON * recorded,
        "training": started + demonstrations * HORIZON * encoded + training.steps * trained + validated,
        "rollouts": 2 * started + rollouts * HORIZON * per_step,
    }


def _simulated(venv: VectorEnv, task: str, always_render: bool) -> float:
    """Seconds of one step of all environments."""
    steps = rollout(venv, Demonstrator(env_id(task)), range(10**6), always_render)
    return _mean_seconds(lambda: next(steps))


def _computed(policy: Policy, config: TrainConfig, num_envs: int) -> tuple[float, float, float]:
    """Seconds to encode one frame, of one training step, and of one query for `num_envs` environments."""
    device, (camera,) = torch.device(config.device), CAMERAS
    policy.to(device)
    batch = make_batch(policy.spec, policy.chunk_size, config.batch_size, device)
    seen = batch.observation
    encoded = _mean_seconds(lambda: policy.encode_frames(camera, seen.images[camera]), device)
    features = policy.encode_frames(camera, seen.images[camera])
    assert features is not None  # the preset's backbone is frozen
    keyframe = torch.randn(config.batch_size, policy.encoder.normalizer.dims["keyframe"], device=device)
    batch = replace(batch, observation=replace(seen, images={}, features={camera: features}), keyframe=keyframe)
    with trainer_of(policy, config) as trainer:
        trained = _mean_seconds(lambda: trainer.update(policy, policy, [batch]), device)
    few = make_batch(policy.spec, policy.chunk_size, num_envs, device).observation
    policy.eval()
    with torch.inference_mode():
        answered = _mean_seconds(lambda: policy.predict(few), device)
    return encoded / config.batch_size, trained, answered


def _mean_seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Seconds of one call, after some that are not counted."""
    return timed(work, max(1, round(MEASURED / timed(work, WARM_UP, device))), device)
