"""Runs in the interpreter of the peers: does what `peers.Peer` requests, one JSON object a line.

LeRobot's ACT with its own defaults, except for pretrained weights, which do not change its speed. Batches are made and
normalised beforehand, so that the policy alone is timed. gym-aloha steps one environment with its rendered observation.
"""

# pyright: reportMissingImports=false

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

TOP = "observation.images.top"


@functools.cache
def act(height, width, chunk, device, **settings):
    """LeRobot's policy for one camera and 14 joints, its optimiser, and the norm at which gradients are clipped."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
            TOP: PolicyFeature(FeatureType.VISUAL, (3, height, width)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
        pretrained_backbone_weights=None,
        chunk_size=chunk,
        **{"n_action_steps": chunk, "device": device, **settings},
    )
    policy = ACTPolicy(config).to(device)
    preset = config.get_optimizer_preset()
    return policy, preset.build(policy.get_optim_params()), preset.grad_clip_norm


def update(policy, optimizer, clip, batch):
    """One optimiser step; returns the parts of the loss."""
    import torch

    policy.train()
    loss, parts = policy(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return parts


@functools.cache
def random_batch(height, width, chunk, size, device):
    import torch

    torch.manual_seed(0)
    return {
        "observation.state": torch.randn(size, 14, device=device),
        TOP: torch.randn(size, 3, height, width, device=device),
        "action": torch.randn(size, chunk, 14, device=device),
        "action_is_pad": torch.zeros(size, chunk, dtype=torch.bool, device=device),
    }


def train(height, width, chunk, size, device, steps):
    """Milliseconds of one optimiser step."""
    work = functools.partial(
        update, *act(height, width, chunk, device), random_batch(height, width, chunk, size, device)
    )
    return 1e3 * timed(work, steps, device)


def infer(height, width, chunk, size, device, steps):
    """Milliseconds of one prediction of a chunk."""
    policy, *_ = act(height, width, chunk, device)
    batch = random_batch(height, width, chunk, size, device)
    seen = {name: batch[name] for name in ("observation.state", TOP)}
    return 1e3 * timed(lambda: policy.eval().predict_action_chunk(seen), steps, device)


def timed(work, times, device):
    """Mean seconds of `work` in `times` calls, after one that is not counted."""
    import torch

    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    work()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - start) / times


@functools.cache
def dataset(frames_file, chunk):
    """LeRobot's dataset with the frames, positions and actions of a file, one episode after the other."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    given = np.load(frames_file)
    vector = {"dtype": "float32", "shape": (14,), "names": None}
    picture = {"dtype": "video", "shape": given["frames"].shape[2:], "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, TOP: picture}
    root = Path(tempfile.mkdtemp(dir=Path(frames_file).parent)) / "dataset"
    made = LeRobotDataset.create("peer/frames", fps=50, features=features, root=root)
    for episode in zip(given["qpos"], given["action"], given["frames"], strict=True):
        for qpos, action, frame in zip(*episode, strict=True):
            made.add_frame({"observation.state": qpos, "action": action, TOP: frame, "task": "a task"})
        made.save_episode()
    made.finalize()
    return LeRobotDataset("peer/frames", root=root, delta_timestamps={"action": [i / 50 for i in range(chunk)]})


def data(frames_file, chunk, size, batches, workers):
    """Random samples per second through a DataLoader, the start of its workers not counted."""
    import torch

    source = dataset(frames_file, chunk)
    loader = torch.utils.data.DataLoader(source, batch_size=size, shuffle=True, num_workers=workers, drop_last=True)
    stream = iter(loader)
    next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return batches * size / (time.perf_counter() - start)


@functools.cache
def environment():
    import warnings

    warnings.filterwarnings("ignore")
    import gym_aloha  # noqa: F401
    import gymnasium as gym

    return gym.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")


def env(steps):
    """Control steps per second of one environment with its picture of 480 x 640."""
    world = environment()
    action = 0 * world.action_space.sample()
    world.reset(seed=0)
    world.step(action)
    start = time.perf_counter()
    for _ in range(steps):
        world.step(action)
    return steps / (time.perf_counter() - start)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    works = {"train": train, "infer": infer, "data": data, "env": env}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": works[request.pop("work")](**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)
