"""Runs in the peer's interpreter, not in ours: does what `peers.Peer` asks for, one JSON object a line.

LeRobot's ACT with its own defaults, but for pretrained weights, which change nothing in speed. Batches are made
beforehand and normalised: the policy alone is timed. gym-aloha steps one environment with its rendered observation.
"""

# pyright: reportMissingImports=false

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

# What libraries print must not come between the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


@functools.cache
def policy(height, width, chunk, device):
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
            "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, height, width)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
        pretrained_backbone_weights=None,
        chunk_size=chunk,
        n_action_steps=chunk,
        device=device,
    )
    torch.manual_seed(0)
    net = ACTPolicy(config).to(device)
    preset = config.get_optimizer_preset()
    return net, preset.build(net.get_optim_params()), preset.grad_clip_norm


@functools.cache
def batch(height, width, chunk, size, device):
    import torch

    torch.manual_seed(0)
    return {
        "observation.state": torch.randn(size, 14, device=device),
        "observation.images.top": torch.randn(size, 3, height, width, device=device),
        "action": torch.randn(size, chunk, 14, device=device),
        "action_is_pad": torch.zeros(size, chunk, dtype=torch.bool, device=device),
    }


def train(height, width, chunk, size, device, steps):
    """Milliseconds of one optimiser step."""
    import torch

    net, optimizer, clip = policy(height, width, chunk, device)
    data = batch(height, width, chunk, size, device)

    def step():
        net.train()
        loss, _ = net(data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()

    return 1e3 * timed(step, steps, device)


def infer(height, width, chunk, size, device, steps):
    """Milliseconds of one prediction of a chunk."""
    net, _, _ = policy(height, width, chunk, device)
    data = {name: value for name, value in batch(height, width, chunk, size, device).items() if "obs" in name}
    net.eval()
    return 1e3 * timed(lambda: net.predict_action_chunk(data), steps, device)


def timed(work, times, device):
    """Seconds of one piece of work, mean of `times`."""
    import torch

    def wait():
        if device != "cpu":
            torch.cuda.synchronize()

    work()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - start) / times


@functools.cache
def dataset(frames_file, chunk):
    """LeRobot's own kind of dataset with the frames, positions and actions of a file, one episode after the other."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    given = np.load(frames_file)
    _, _, height, width, _ = given["frames"].shape
    vector = {"dtype": "float32", "shape": (14,), "names": None}
    picture = {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, "observation.images.top": picture}
    root = Path(tempfile.mkdtemp(dir=Path(frames_file).parent)) / "dataset"
    made = LeRobotDataset.create("peer/frames", fps=50, features=features, root=root)
    for episode in zip(given["qpos"], given["action"], given["frames"], strict=True):
        for qpos, action, frame in zip(*episode, strict=True):
            made.add_frame(
                {"observation.state": qpos, "action": action, "observation.images.top": frame, "task": "a task"}
            )
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

    env = gym.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    env.reset(seed=0)
    env.step(0 * env.action_space.sample())
    return env


def env(steps):
    """Control steps per second of one environment with its picture of 480 x 640."""
    world = environment()
    action = 0 * world.action_space.sample()
    world.reset(seed=0)
    start = time.perf_counter()
    for _ in range(steps):
        world.step(action)
    return steps / (time.perf_counter() - start)


WORKS = {"train": train, "infer": infer, "data": data, "env": env}

if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = {"value": WORKS[asked.pop("work")](**asked)}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(told), file=answers, flush=True)
