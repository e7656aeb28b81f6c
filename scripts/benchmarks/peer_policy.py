"""Train LeRobot's ACT on our demonstrations and roll it out on our seeds; writes results as rollout.py does.

    PYTHONPATH=. PEER/bin/python scripts/benchmarks/peer_policy.py --data data/cube --json runs/peer.json --minutes 10

PEER is a virtual environment with lerobot, mujoco, gymnasium and h5py. Policy, loss, optimiser, normalisation and
execution are LeRobot's, with its defaults except for the flags and the weights of the backbone, which are not
downloaded. Frames are kept in memory: a LeRobotDataset holds the same numbers and is slower.
"""

# pyright: reportMissingImports=false

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lerobot.policies.act.processor_act import make_act_pre_post_processors
from tqdm import tqdm

from demos.episode import Episode, find_episodes
from envs.results import evaluate, summarize
from envs.rollout import make_vector_env
from scripts.benchmarks.peer_program import TOP, act, update

SMALL = {"dim_model": 128, "n_heads": 4, "dim_feedforward": 512, "n_encoder_layers": 2, "n_vae_encoder_layers": 1}


class Demonstrations:
    """All steps of all episodes of a folder, with the chunk of actions that follows each."""

    def __init__(self, folder: Path, chunk: int):
        episodes = [Episode(path) for path in find_episodes(folder)]
        self.spec, self.chunk = episodes[0].spec, chunk
        self.qpos = torch.from_numpy(np.concatenate([episode.qpos for episode in episodes]))
        self.action = torch.from_numpy(np.concatenate([episode.action for episode in episodes]))
        frames = [episode.frames("top") for episode in tqdm(episodes, "reading", leave=False)]
        self.frames = torch.from_numpy(np.concatenate(frames)).permute(0, 3, 1, 2)  # (S, 3, H, W) uint8
        lengths = torch.tensor([episode.length for episode in episodes])
        self.last = (lengths.cumsum(0) - 1).repeat_interleave(lengths)

    def stats(self) -> dict[str, dict[str, torch.Tensor]]:
        """As LeRobot's dataset has them: of pictures per channel, from 0 to 1."""
        some = self.frames[:: max(1, len(self.frames) // 2000)].float() / 255
        picture = {"mean": some.mean(dim=(0, 2, 3))[:, None, None], "std": some.std(dim=(0, 2, 3))[:, None, None]}
        vectors = {"observation.state": self.qpos, "action": self.action}
        return {TOP: picture} | {name: {"mean": x.mean(0), "std": x.std(0)} for name, x in vectors.items()}

    def batch(self, starts: torch.Tensor) -> dict[str, torch.Tensor]:
        steps, last = starts[:, None] + torch.arange(self.chunk), self.last[starts, None]
        observation = {"observation.state": self.qpos[starts], TOP: self.frames[starts].float() / 255}
        return observation | {"action": self.action[steps.minimum(last)], "action_is_pad": steps > last}


class PeerAgent:
    """LeRobot's policy as an agent of `envs.rollout`, with its own queue of actions."""

    cameras = ("top",)

    def __init__(self, policy, before, after):
        self.policy, self.before, self.after = policy, before, after

    def reset(self, seeds, observation) -> None:
        self.policy.reset()

    def needs_images(self) -> bool:
        return not getattr(self.policy, "_action_queue", ())  # with temporal ensembling it has none

    def __call__(self, observation) -> np.ndarray:
        seen = {}  # the queue needs nothing
        if "images/top" in observation:
            picture = torch.from_numpy(observation["images/top"]).permute(0, 3, 1, 2).float() / 255
            seen = self.before({"observation.state": torch.from_numpy(observation["qpos"]), TOP: picture})
        return self.after(self.policy.select_action(seen)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of episodes with one camera, top")
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="training time")
    parser.add_argument("--steps", type=int, default=10**9, help="training steps")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="width, depth and chunk of our cpu preset")
    parser.add_argument("--lr", type=float, help="learning rate; default: LeRobot's")
    parser.add_argument("--ensemble", type=float, help="coefficient of temporal ensembling")
    parser.add_argument("--rollouts", type=int, default=100, help="on seeds from 100,000")
    parser.add_argument("--horizon", type=int, default=400)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    settings = dict(SMALL) if args.small else {}
    settings |= {} if args.lr is None else {"optimizer_lr": args.lr, "optimizer_lr_backbone": args.lr}
    settings |= {} if args.ensemble is None else {"n_action_steps": 1, "temporal_ensemble_coeff": args.ensemble}
    chunk = 50 if args.small else 100
    data = Demonstrations(args.data, chunk)
    policy, optimizer, clip = act(*data.spec.cameras["top"], chunk, "cpu", **settings)
    before, after = make_act_pre_post_processors(policy.config, data.stats())
    start, step, losses = time.perf_counter(), 0, []
    with tqdm(unit="step", mininterval=10) as bar:
        while step < args.steps and time.perf_counter() - start < 60 * args.minutes:
            if not step % (len(data.qpos) // args.batch_size):
                order = torch.randperm(len(data.qpos)).split(args.batch_size)
            starts = order[step % (len(data.qpos) // args.batch_size)]
            losses.append(update(policy, optimizer, clip, before(data.batch(starts)))["l1_loss"])
            step += 1
            bar.update()
    minutes = (time.perf_counter() - start) / 60
    print(f"{step} steps of {args.batch_size} in {minutes:.1f} minutes, L1 {np.mean(losses[-200:]):.4f}")

    venv = make_vector_env(data.spec.env_id, 8, cameras=data.spec.cameras, horizon=args.horizon)
    with tqdm(total=args.rollouts, unit="episode") as bar:
        seeds = range(100_000, 100_000 + args.rollouts)
        results = evaluate(venv, PeerAgent(policy.eval(), before, after), seeds, bar.update)
    venv.close()
    summary = summarize(results)
    print({name: summary[name] for name in ("success_rate", "success_interval", "success_rate_published")})
    written = {name: str(value) for name, value in vars(args).items()}
    written |= {"steps": step, "samples": step * args.batch_size, "training_minutes": minutes}
    found = {"settings": written, "summary": summary, "episodes": [asdict(result) for result in results]}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
