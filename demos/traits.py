"""Traits: how demonstrations of people depart from a published motion. They combine freely.

pauses      hesitates before contact, after contact and at random, 0.1 to 2 s
tempo       0.4 to 1.5 times the usual speed, drawn for every episode and for every segment
wander      the tool drifts slowly by about a centimetre, near contact by a millimetre or two
overshoot   goes 1 to 3 cm too far in the air, and back
misses      in half of the episodes closes too high above the object, opens, and tries again
approaches  from either side, straight from above or slanted, over a high or a low arc
order       one arm first, or the other, or both at once
idle_ends   stands still for 0.2 to 2 s at the beginning and at the end
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from demos.motion import Motion, Segment, duration, pause
from demos.tool_poses import PUBLISHED_PITCH, pitched
from envs.aloha import ARMS, FPS

Trait = Callable[..., Motion]
"""(motion, rng, **strength) → the motion with this trait."""


def pauses(motion: Motion, rng: np.random.Generator, chance: float = 0.6, longest: float = 2.0) -> Motion:
    def hesitation() -> float:
        return FPS * (0.1 + (longest - 0.1) * rng.uniform() ** 2)

    alone = {}
    for arm, segments in motion.alone.items():
        alone[arm] = []
        for segment in segments:
            alone[arm].append(segment)
            likely = chance if segment.kind in ("over", "reach", "close") else chance / 3
            if rng.uniform() < likely:
                alone[arm].append(pause(segment, hesitation()))
    together: dict[str, list[Segment]] = {arm: [] for arm in ARMS}
    for pair in zip(*(motion.together[arm] for arm in ARMS), strict=True):
        after = not any(segment.contiguous for segment in pair) and rng.uniform() < chance / 2
        steps = hesitation()
        for arm, segment in zip(ARMS, pair, strict=True):
            together[arm] += [segment, pause(segment, steps)] if after else [segment]
    return replace(motion, alone=alone, together=together)


def tempo(motion: Motion, rng: np.random.Generator, slowest: float = 0.4, fastest: float = 1.5) -> Motion:
    usual = np.exp(rng.uniform(np.log(slowest), np.log(fastest)))

    def slower(segment: Segment, speed: float) -> Segment:
        return segment if segment.kind == "wait" else replace(segment, steps=segment.steps / speed)

    def speed() -> float:
        return float(np.clip(usual * np.exp(rng.normal(0, 0.2)), slowest, fastest))

    alone = {arm: [slower(segment, speed()) for segment in segments] for arm, segments in motion.alone.items()}
    speeds = [speed() for _ in motion.together["left"]]
    together = {
        arm: [slower(segment, each) for segment, each in zip(segments, speeds, strict=True)]
        for arm, segments in motion.together.items()
    }
    return replace(motion, alone=alone, together=together)


def wander(motion: Motion, rng: np.random.Generator, size: float = 0.01, at_contact: float = 0.15) -> Motion:
    def drift_of(phases: np.ndarray, periods: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def drift(scale: np.ndarray) -> np.ndarray:
            t = np.arange(len(scale))[:, None, None] / FPS
            waves = np.sin(2 * np.pi * t / periods + phases).sum(axis=1) * size / np.sqrt(len(periods) / 2)  # (T, 3)
            window = np.ones(FPS) / FPS  # so that it comes and goes within a second
            padded = np.concatenate([np.full(FPS, scale[0]), scale, np.full(FPS, scale[-1])])
            smooth = np.convolve(padded, window, mode="same")[FPS:-FPS]
            begin = np.minimum(1, np.arange(len(scale)) / FPS)  # everything starts at the home pose
            waves[:, 2] *= 0.5
            return waves * (np.maximum(smooth, at_contact) * begin)[:, None]

        return drift

    drift = {arm: drift_of(rng.uniform(0, 2 * np.pi, (3, 3)), rng.uniform(1.5, 6, (3, 3))) for arm in ARMS}
    return replace(motion, drift=drift)


def overshoot(motion: Motion, rng: np.random.Generator, chance: float = 0.7) -> Motion:
    alone = {}
    for arm, segments in motion.alone.items():
        alone[arm] = segments[:1]
        for before, segment in pairwise(segments):
            offset = segment.position - before.position
            far = float(np.linalg.norm(offset))
            if segment.kind in ("free", "over") and far > 0.05 and rng.uniform() < chance:
                beyond = segment.position + rng.uniform(0.01, 0.03) * offset / far
                alone[arm] += [replace(segment, position=beyond), replace(segment, steps=rng.uniform(12, 25))]
            else:
                alone[arm].append(segment)
    return replace(motion, alone=alone)


def misses(motion: Motion, rng: np.random.Generator, chance: float = 0.5) -> Motion:
    alone = {}
    for arm, segments in motion.alone.items():
        alone[arm] = []
        missed = rng.uniform() < chance
        for i, segment in enumerate(segments):
            if missed and segment.kind == "reach":
                over, close = segments[i - 1], segments[i + 1]
                beside = segment.position + [*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.055, 0.07)]
                shut = replace(segment, kind="free", position=beside, gripper=close.gripper, steps=close.steps)
                alone[arm] += [
                    replace(segment, kind="free", position=beside),
                    shut,
                    replace(over, gripper=close.gripper, steps=30),
                    replace(over, steps=20),
                    pause(over, rng.uniform(10, 40)),
                ]
            alone[arm].append(segment)
    return replace(motion, alone=alone)


def approaches(motion: Motion, rng: np.random.Generator) -> Motion:
    alone, together = dict(motion.alone), dict(motion.together)
    for arm in ARMS:
        usual, held = pitched(arm), pitched(arm, rng.uniform(PUBLISHED_PITCH, 85))
        side, height = rng.uniform(-0.06, 0.06), rng.uniform(-0.02, 0.1)

        def turned(segment: Segment, usual: np.ndarray = usual, held: np.ndarray = held) -> Segment:
            return replace(segment, rotation=held) if np.array_equal(segment.rotation, usual) else segment

        together[arm] = [turned(segment) for segment in motion.together[arm]]
        alone[arm] = []
        for before, segment in zip([None, *motion.alone[arm]], motion.alone[arm], strict=False):
            segment = turned(segment)
            if before is not None and segment.kind == "over":
                via = (before.position + segment.position) / 2 + [0, 2 * side, height]
                half = replace(segment, kind="free", position=via, steps=segment.steps / 2)
                beside = replace(segment, position=segment.position + [0, side, 0], steps=segment.steps / 2)
                alone[arm] += [half, beside]
            else:
                alone[arm].append(segment)
    return replace(motion, alone=alone, together=together)


def order(motion: Motion, rng: np.random.Generator) -> Motion:
    first = rng.choice([*ARMS, "both"])
    if first == "both":
        return motion
    other = "left" if first == "right" else "right"
    home, *rest = motion.alone[other]
    delay = duration(motion.alone[first]) * rng.uniform(0.7, 1.0)
    return replace(motion, alone=motion.alone | {other: [home, pause(home, delay), *rest]})


def idle_ends(motion: Motion, rng: np.random.Generator) -> Motion:
    before, after = rng.uniform(0.2 * FPS, 2 * FPS, 2)
    alone = {arm: [segments[0], pause(segments[0], before), *segments[1:]] for arm, segments in motion.alone.items()}
    together = {arm: [*segments, pause(segments[-1], after)] for arm, segments in motion.together.items()}
    return replace(motion, alone=alone, together=together)


TRAITS: dict[str, Trait] = {
    "approaches": approaches,
    "misses": misses,
    "overshoot": overshoot,
    "tempo": tempo,
    "pauses": pauses,
    "order": order,
    "idle_ends": idle_ends,
    "wander": wander,
}
"""In the order in which they are applied."""
