"""What z decides: how far each tool goes in the first chunk of an episode, drawn from the prior, beside what was shown.

    python scripts/latent_plot.py --checkpoint runs/order --data data/order --png ways.png

Where demonstrations do a thing in several ways, the demonstrated chunks form several groups. A latent that carries the
way gives draws in all of them; one that has collapsed gives a single point, at whatever lies between.
"""

import scripts.early  # noqa: F401

# isort: split
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from act.errors import ConfigError
from act.run_folder import find_checkpoint
from demos import kinematics
from demos.episode import Episode, find_episodes
from demos.spec import JpegColors
from scripts.common import run
from scripts.outputs import check_file, failures_named, write_file

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from torch import Tensor

    from act.policies import Observation, Policy


@dataclass(frozen=True)
class Args:
    """What z decides: how far each tool goes in a chunk drawn from the prior, beside what was shown."""

    checkpoint: Path
    """Run folder or checkpoint of a policy with a latent."""
    data: Path
    """Folder of demonstrations."""
    png: Path
    """The picture to write."""
    step: int = 0
    """Step of the episodes at which the chunks begin."""
    draws: int = 10
    """Draws of z for each episode."""
    episodes: int = 50
    """At most so many."""
    seed: int = 0
    """Of the draws."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames: bgr, rgb, or what the files say; see scripts/train.py."""
    text_encoder: str | None = None
    """module:function of the policy's text encoder, to embed instructions that are new to the policy. Other encoders
    than minilm run only if you name them here."""


def main(args: Args) -> None:
    check_file("--png", args.png)
    checkpoint, paths = find_checkpoint(args.checkpoint), find_episodes(args.data)[: args.episodes]

    import torch

    from act.checkpoint import load_policy

    policy = load_policy(checkpoint, "cpu", text_encoder=args.text_encoder)
    if not policy.noise_dim:
        raise ConfigError(f"{args.checkpoint} has no latent to draw from; train one with --use-vae --prior learned")
    if not kinematics.knows(policy.spec.joint_names):
        raise ConfigError("the tools' places are known of ALOHA's joints alone, and these episodes have others")
    episodes = [Episode(path, cameras=policy.cameras, jpeg_colors=args.jpeg_colors) for path in paths]
    episodes = [episode for episode in episodes if episode.length > args.step + 1]
    if not episodes:
        raise ConfigError(f"no episode in {args.data} is longer than {args.step} steps; choose a smaller --step")
    torch.manual_seed(args.seed)
    shown, drawn, mean = [], [], []
    for episode in episodes:
        observation = observed(policy, episode, args.step)
        start = observation.qpos.numpy()
        shown.append(travel(start, episode.action[None, args.step : args.step + policy.chunk_size]))
        with torch.inference_mode():
            chance = torch.randn(args.draws, policy.noise_dim)
            drawn.append(travel(start, policy.predict(observation.repeat(0, args.draws), chance).numpy()))
            mean.append(travel(start, policy.predict(observation).numpy()))
    groups = {"drawn": np.concatenate(drawn), "mean of the prior": np.concatenate(mean), "shown": np.concatenate(shown)}
    plot(groups, policy.chunk_size, args.png)
    moves = groups["shown"].max(axis=0) / 2
    print("the arms that go at least half as far as the demonstrations at most:")
    for name, places in groups.items():
        print(f"{name:<18} {', '.join(f'{which} {100 * share:.0f} %' for which, share in ways(places, moves).items())}")
    print(f"picture: {args.png}")


def observed(policy: "Policy", episode: Episode, t: int) -> "Observation":
    import torch

    from act.policies import Observation

    with episode:
        frames = {name: torch.from_numpy(episode.frame(name, t))[None] for name in policy.cameras}
    poses = episode.env_state
    return Observation(
        torch.from_numpy(episode.qpos[t : t + 1]),
        frames,
        torch.from_numpy(poses[t : t + 1]) if policy.uses_env_state and poses is not None else None,
        instruction=told(policy, episode, 1),
    )


def told(policy: "Policy", episode: Episode, n: int) -> "Tensor | None":
    """What the episode's first phrasing says to a policy that is told what to do, (n, text_dim)."""
    if policy.instruction_encoder is None:
        return None
    if not episode.instructions:
        raise ConfigError(f"{episode.path} does not tell what was to be done, which the policy must be told")
    return policy.instruction_encoder(episode.instructions[:1]).expand(n, -1)


def travel(start: np.ndarray, chunks: np.ndarray) -> np.ndarray:
    """How far the left and the right tool are at the end of each chunk from where they are, (n, 2) cm."""
    way = kinematics.tool_positions(chunks[:, -1]) - kinematics.tool_positions(start)
    return 100 * np.linalg.norm(way.reshape(-1, 2, 3), axis=-1)


def ways(places: np.ndarray, moves: np.ndarray) -> dict[str, float]:
    """Shares of chunks (n, 2) in which the left arm alone, the right one alone, both or neither go at least `moves`."""
    left, right = (places >= moves).T
    counts = {"left": left & ~right, "right": right & ~left, "both": left & right, "neither": ~left & ~right}
    return {which: float(each.mean()) for which, each in counts.items()}


def plot(groups: dict[str, np.ndarray], chunk: int, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="left tool goes (cm)", ylabel="right tool goes (cm)")
    styles = {"drawn": (".", "tab:blue", 30), "mean of the prior": ("*", "tab:red", 60), "shown": ("x", "black", 40)}
    for name, places in groups.items():
        marker, colour, size = styles[name]
        axes.scatter(
            places[:, 0], places[:, 1], s=size, marker=marker, color=colour, label=name, alpha=0.6, linewidths=1
        )
    axes.set_title(f"the next {chunk} steps", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    axes.grid(alpha=0.3)
    with failures_named(path):
        write_file(path, lambda partial: figure.savefig(partial, dpi=120, format="png"))


if __name__ == "__main__":
    run(main, Args)
