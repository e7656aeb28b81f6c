"""Plot what the latent of a policy decides: chunks sampled from the prior, beside demonstrated ones.

    python scripts/latent_plot.py --checkpoint runs/order --data data/order --png latent.png

A dot is a chunk at the start of an episode: how far it moves the left and the right end effector. Where demonstrations
do a task in several variants, their chunks form several clusters. A latent that carries the variant gives samples in
all of them; a collapsed latent gives one point between them.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from act.errors import ConfigError
from act.run_folder import find_checkpoint
from demos.episode import Episode, find_episodes
from demos.kinematics import forward_kinematics
from demos.robot import Robot
from demos.spec import JpegColors
from scripts.common import run
from scripts.outputs import check_file, failures_named, write_file

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from torch import Tensor

    from act.policies import Observation, Policy

STYLES = {"sampled": (".", "tab:blue", 30), "mean of the prior": ("*", "tab:red", 60), "shown": ("x", "black", 40)}
"""Group of chunks → marker, colour, size."""


@dataclass(frozen=True)
class Args:
    """Plot what the latent of a policy decides."""

    checkpoint: Path
    """Run folder or checkpoint of a policy with a latent."""
    data: Path
    """Folder of demonstrations."""
    png: Path
    """The picture to write."""
    step: int = 0
    """Step of the episodes at which the chunks begin."""
    samples: int = 10
    """Samples of the latent for each episode."""
    episodes: int = 50
    """How many of the episodes to take, at most."""
    seed: int = 0
    """Seed of the samples."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames: bgr, rgb, or auto for what the files say; see scripts/train.py."""
    text_encoder: str | None = None
    """module:function of the policy's text encoder, for instructions that are new to the policy. Encoders other than
    minilm run only if they are named here."""


def main(args: Args) -> None:
    check_file("--png", args.png)
    checkpoint, paths = find_checkpoint(args.checkpoint), find_episodes(args.data)[: args.episodes]

    import torch

    from act.checkpoint import load_policy

    policy = load_policy(checkpoint, "cpu", text_encoder=args.text_encoder)
    if not policy.noise_dim:
        raise ConfigError(f"{args.checkpoint} has no latent to sample; train one with --policy act --prior learned")
    robot = policy.spec.robot
    if not policy.spec.has_ee_positions or len(robot.arms) != 2:
        raise ConfigError(f"{args.checkpoint}: its actions do not give the positions of two end effectors")
    episodes = [Episode(path, cameras=policy.cameras, jpeg_colors=args.jpeg_colors) for path in paths]
    episodes = [episode for episode in episodes if episode.length > args.step + 1]
    if not episodes:
        raise ConfigError(f"no episode in {args.data} is longer than {args.step} steps; choose a smaller --step")
    torch.manual_seed(args.seed)
    shown, sampled, mean = [], [], []
    for episode in episodes:
        observation = observe(policy, episode, args.step)
        start = observation.qpos.numpy()
        shown.append(travel(robot, start, episode.action[None, args.step : args.step + policy.chunk_size]))
        with torch.inference_mode():
            noise = torch.randn(args.samples, policy.noise_dim)
            sampled.append(travel(robot, start, policy.predict(observation.repeat(0, args.samples), noise).numpy()))
            mean.append(travel(robot, start, policy.predict(observation).numpy()))
    groups = dict(zip(STYLES, map(np.concatenate, (sampled, mean, shown)), strict=True))
    with failures_named(args.png):
        plot(groups, policy.chunk_size, args.png)
    threshold = groups["shown"].max(axis=0) / 2
    print("arms that move at least half as far as the farthest demonstration:")
    for name, distances in groups.items():
        shares = ", ".join(f"{arms} {100 * share:.0f} %" for arms, share in moving_arms(distances, threshold).items())
        print(f"{name:<18} {shares}")
    print(f"picture: {args.png}")


def observe(policy: "Policy", episode: Episode, t: int) -> "Observation":
    """What the policy observes at step t, as a batch of one."""
    import torch

    from act.policies import Observation

    with episode:
        frames = {name: torch.from_numpy(episode.frame(name, t))[None] for name in policy.cameras}
    poses = episode.env_state
    return Observation(
        torch.from_numpy(episode.qpos[t : t + 1]),
        frames,
        torch.from_numpy(poses[t : t + 1]) if policy.uses_env_state and poses is not None else None,
        instruction=embed_instruction(policy, episode, 1),
    )


def embed_instruction(policy: "Policy", episode: Episode, n: int) -> "Tensor | None":
    """The episode's first phrasing, (n, text_dim); None for a policy without instructions."""
    if policy.instruction_encoder is None:
        return None
    if not episode.instructions:
        raise ConfigError(f"{episode.path} has no instruction, and the policy needs one")
    return policy.instruction_encoder(episode.instructions[:1]).expand(n, -1)


def travel(robot: Robot, start: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """How far the left and the right end effector are from `start` at the end of each chunk, (n, 2) cm."""
    moved = forward_kinematics(robot, chunks[:, -1]) - forward_kinematics(robot, start)
    return 100 * np.linalg.norm(moved, axis=-1)


def moving_arms(distances: np.ndarray, threshold: np.ndarray) -> dict[str, float]:
    """Shares of the chunks in which each arm alone, both or none moves at least `threshold`; (n, 2), (2,) cm."""
    left, right = (distances >= threshold).T
    cases = {"left": left & ~right, "right": right & ~left, "both": left & right, "neither": ~left & ~right}
    return {arms: float(each.mean()) for arms, each in cases.items()}


def plot(groups: dict[str, np.ndarray], steps: int, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="left end effector moves (cm)", ylabel="right end effector moves (cm)")
    for name, distances in groups.items():
        marker, colour, size = STYLES[name]
        axes.scatter(*distances.T, s=size, marker=marker, color=colour, label=name, alpha=0.6, linewidths=1)
    axes.set_title(f"the next {steps} steps", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    axes.grid(alpha=0.3)
    write_file(path, lambda partial: figure.savefig(partial, dpi=120, format="png"))


if __name__ == "__main__":
    run(main, Args)
