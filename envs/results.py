"""Evaluation: results of episodes, success rates with intervals, results.json."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs import EnvError
from envs.aloha import FPS
from envs.rollout import Agent, Step, VectorEnv, rollout

STORED_NAMES = {"way": "variant", "asked": "requested", "ways": "variants", "obeyed": "instruction_followed"}
"""Old → new names in the episodes and the summary of results.json."""


@dataclass(frozen=True)
class EpisodeResult:
    """The result of one episode."""

    seed: int
    success: bool  # strict
    success_published: bool  # highest reward 4
    highest_stage: int
    length: int  # steps until strict success, or of the whole episode
    success_step: int | None  # the step at which strict success was reached
    jerk: float  # root mean square of the commanded arm joints' third difference over that length, rad/s³
    variant: str = ""  # the variant that it shows; "" if there is one only, or none shows
    requested: str = ""  # the variant that was requested, or ""


def evaluate(
    venv: VectorEnv,
    agent: Agent,
    seeds: Sequence[int],
    progress: Callable[[int], object] = lambda ended: None,
    watch: Callable[[Step], object] = lambda step: None,
    requested: Callable[[int], str] = lambda seed: "",
    results: list[EpisodeResult] | None = None,
) -> list[EpisodeResult]:
    """Rolls out and judges one episode per seed. A wave of episodes ends once all of them have succeeded.

    Args:
        progress: called with the number of episodes that have just ended.
        watch: called with every `Step`, for example to record a video.
        requested: seed → the variant that is requested in its episode; "" for any.
        results: each result is appended at once, so that none is lost with an exception; returned.

    Raises:
        LostWorker: an environment's process was killed.
    """
    results = [] if results is None else results
    wave: list[Step] = []
    for step in rollout(venv, agent, seeds, stop_when=all_succeeded):
        watch(step)
        step.observation.clear()  # the images of a whole wave would fill the memory
        wave.append(step)
        if step.last:
            results += _judge(wave, requested)
            wave = []
            progress(len(step.seeds))
    return results


def all_succeeded(info: Mapping[str, np.ndarray]) -> bool:
    """Whether all episodes of a wave are strict and published successes."""
    return bool(np.all(info["is_success"] & info["is_success_published"]))


def _judge(wave: Sequence[Step], requested: Callable[[int], str]) -> list[EpisodeResult]:
    """Results of the episodes of a wave, from all its steps."""
    strict = np.stack([step.info["is_success"] for step in wave])  # (T, n), stays true once reached
    stages = np.stack([step.reward for step in wave]).max(axis=0)
    actions = np.stack([step.action for step in wave])  # (T, n, 14)
    lengths = np.where(strict[-1], strict.argmax(axis=0) + 1, len(wave))
    variants = [name for name in wave[-1].info if name.startswith("variant/")]
    return [
        EpisodeResult(
            seed=seed,
            success=bool(strict[-1, i]),
            success_published=bool(wave[-1].info["is_success_published"][i]),
            highest_stage=int(stages[i]),
            length=int(lengths[i]),
            success_step=int(strict[:, i].argmax()) if strict[-1, i] else None,
            jerk=float(command_jerk(actions[: lengths[i], i : i + 1])[0]),
            variant="".join(name.removeprefix("variant/") for name in variants if wave[-1].info[name][i]),
            requested=requested(seed),
        )
        for i, seed in enumerate(wave[-1].seeds)
    ]


def command_jerk(actions: np.ndarray) -> np.ndarray:
    """Commands (T, n, 14) → (n,) root mean square jerk of the twelve arm joints, rad/s³: smaller is smoother."""
    arms = np.delete(actions.astype(np.float64), [6, 13], axis=-1)
    if len(arms) < 4:
        return np.zeros(actions.shape[1])
    jerk = np.diff(arms, n=3, axis=0) * float(FPS) ** 3
    return np.sqrt(np.mean(jerk**2, axis=(0, 2)))


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a success rate (Wilson 1927), valid also near 0 and 1 and for few rollouts."""
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z**2 / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    low, high = ((centre + sign * spread) / (1 + z**2 / trials) for sign in (-1, 1))
    return max(0.0, min(low, rate)), min(1.0, max(high, rate))  # none or all: rounding may leave the rate outside


def summarize(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success rates with intervals, episodes per highest stage, smoothness, time to success, successes per variant, and
    the share of episodes that succeed in the requested variant."""
    n = len(results)
    strict, published = sum(r.success for r in results), sum(r.success_published for r in results)
    steps = [r.success_step for r in results if r.success_step is not None]
    variants = sorted({r.variant for r in results if r.variant})
    instruction_followed = sum(r.variant == r.requested and r.success for r in results)
    return {
        "episodes": n,
        "success_rate": strict / n,
        "success_interval": wilson_interval(strict, n),
        "success_rate_published": published / n,
        "success_interval_published": wilson_interval(published, n),
        "highest_stage": {stage: sum(r.highest_stage == stage for r in results) for stage in range(5)},
        "median_success_step": float(np.median(steps)) if steps else None,
        "mean_jerk": float(np.mean([r.jerk for r in results])),
        **({"instruction_followed": instruction_followed / n} if any(r.requested for r in results) else {}),
        **(
            {"variants": {name: sum(r.variant == name and r.success for r in results) for name in variants}}
            if variants
            else {}
        ),
    }


def _current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {STORED_NAMES.get(name, name): value for name, value in stored.items()}


def read_results(path: Path) -> dict[str, Any]:
    """The file that scripts/rollout.py --json writes: "settings", "summary" and "episodes", an `EpisodeResult` each.

    Raises:
        EnvError: no such file, another program wrote it, or its summary is not that of its episodes.
    """
    found: dict[str, Any] = {}
    differing: list[str] = []
    try:
        found = json.loads(path.read_text())
        found["summary"] = _current_names(found["summary"])
        found["episodes"] = [_current_names(row) for row in found["episodes"]]
        expected = json.loads(json.dumps(summarize([EpisodeResult(**row) for row in found["episodes"]])))
        differing = [name for name, value in expected.items() if found["summary"][name] != value]
        known = isinstance(found["settings"], dict) and all(isinstance(row["seed"], int) for row in found["episodes"])
    except FileNotFoundError:
        raise EnvError(f"{path}: no such file; scripts/rollout.py --json writes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        known = False
    if not known:
        raise EnvError(f"{path} is not what scripts/rollout.py writes with --json; roll out again")
    if differing:
        raise EnvError(f"{path} was changed: its {differing[0]} is not that of its episodes; roll out again")
    return found
