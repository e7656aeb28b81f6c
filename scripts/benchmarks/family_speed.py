"""What one policy costs: python -m scripts.benchmarks.family_speed RUN OUT.json STEPS. Its own process, for its memory.

Training steps of 16 samples, frames looked at before where the eyes are frozen; answers to one and to eight
observations, pictures included.
"""

import json
import resource
import sys
from functools import partial
from pathlib import Path

import torch

from act.checkpoint import load_policy
from act.keyframes import keyframe_dim
from act.policies import Batch
from act.run_folder import find_checkpoint
from scripts.benchmarks.learning import Mode, flops_per_sample, make_batch, stepping, timed

SAMPLES = 16


def main(run: Path, out: Path, steps: int) -> None:
    device = torch.device("cpu")
    policy = load_policy(find_checkpoint(run), device)

    def seen(n: int) -> Batch:
        batch = make_batch(policy.spec, policy.chunk_size, n, device)
        if policy.instruction_encoder is not None:
            batch.observation.instruction = torch.randn(n, policy.instruction_encoder.dim)
        return batch

    batch = seen(SAMPLES)
    batch.keyframe = torch.zeros(SAMPLES, keyframe_dim(policy.spec.joint_names))
    told = {}
    for n in (1, 8):
        observation = seen(n).observation
        chance = torch.randn(n, policy.noise_dim) if policy.noise_dim else None
        with torch.inference_mode():
            told[f"latency_ms_{n}"] = 1e3 * timed(partial(policy.predict, observation, chance), steps, device)
    for camera, frames in list(batch.observation.images.items()):
        features = policy.encode_frames(camera, frames)
        if features is not None:
            batch.observation.features[camera] = features
    told |= {
        "parameters": sum(p.numel() for p in policy.parameters()),
        "trained_parameters": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "mflops_per_sample": flops_per_sample(policy, batch) / 1e6,
    }
    with stepping(policy.train(), Mode("float32"), device) as step:
        told["training_ms_per_sample"] = 1e3 * timed(lambda: step(batch), steps, device) / SAMPLES
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
