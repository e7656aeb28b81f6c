"""Measure how near the chunks of a policy are to demonstrated ones, see act/chunk_metrics.py.

python scripts/experiments/chunk_metrics.py --checkpoint RUN --data data/cube --held-out data/other --json a.json
"""

import scripts.early  # noqa: F401

# isort: split
import json
from dataclasses import dataclass
from pathlib import Path

from act.errors import ConfigError
from act.run_folder import find_checkpoint, write_atomically
from demos.episode import find_all_episodes
from scripts.common import run


@dataclass(frozen=True)
class Args:
    """Measure how near the chunks of a policy are to demonstrated ones."""

    checkpoint: Path
    """Run folder or checkpoint."""
    data: tuple[Path, ...]
    """Folders of the demonstrations that the policy was trained on."""
    held_out: tuple[Path, ...]
    """Folders of others, from whose observations it predicts."""
    json: Path
    """The file to write."""


def main(args: Args) -> None:
    import torch  # takes seconds, which nobody waits for to read --help

    from act.checkpoint import load_policy
    from act.chunk_metrics import chunk_metrics

    policy = load_policy(find_checkpoint(args.checkpoint), "cpu").eval()
    if not policy.spec.has_ee_positions:
        raise ConfigError(f"{args.checkpoint}: its actions do not give the positions of end effectors")
    torch.manual_seed(0)
    numbers = chunk_metrics(policy, find_all_episodes(args.data)[0], find_all_episodes(args.held_out)[0])
    write_atomically(args.json, json.dumps(numbers, indent=2).encode())
    print(", ".join(f"{name} {value:.2f}" for name, value in numbers.items()))


if __name__ == "__main__":
    run(main, Args)
