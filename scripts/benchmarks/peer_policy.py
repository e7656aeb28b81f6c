"""LeRobot's ACT on our demonstrations: trains it, rolls it out on our seeds, and writes results as rollout.py does.

    PYTHONPATH=. PEER/bin/python scripts/benchmarks/peer_policy.py --data data/cube --json runs/peer.json --minutes 10

Runs in the peer's interpreter, which has lerobot, mujoco, gymnasium and h5py in it, and nothing of ours but the
environments. Policy, loss, optimiser, normalisation and execution are LeRobot's own with its defaults, but for what the
flags say and for the weights of the backbone, which cannot be downloaded everywhere. The frames are kept in memory
instead of in a LeRobotDataset, whose videos would cost it time: it learns from the same numbers, faster.
"""

# pyright: reportMissingImports=false

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors
from tqdm import tqdm

from demos.episode import Episode, find_episodes
from envs.results import evaluate, summarize
from envs.rollout import make_vector_env

CAMERA = "observation.images.top"


class Demonstrations:
    """All steps of all episodes of a folder, with the following chunk of actions each."""

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
        return {CAMERA: picture} | {name: {"mean": x.mean(0), "std": x.std(0)} for name, x in vectors.items()}

    def batch(self, starts: torch.Tensor) -> dict[str, torch.Tensor]:
        steps = starts[:, None] + torch.arange(self.chunk)
        last = self.last[starts, None]
        return {
            "observation.state": self.qpos[starts],
            CAMERA: self.frames[starts].float() / 255,
            "action": self.action[steps.minimum(last)],
            "action_is_pad": steps > last,
        }


class PeerAgent:
    """LeRobot's policy in our loop, with its own queue of actions."""

    cameras = ("top",)

    def __init__(self, policy, before, after):
        self.policy, self.before, self.after = policy, before, after

    def reset(self, seeds, observation) -> None:
        self.policy.reset()

    def needs_images(self) -> bool:
        return not getattr(self.policy, "_action_queue", ())  # it has none where it averages: it looks at every step

    def __call__(self, observation) -> np.ndarray:
        seen = {}  # what is left in the queue needs nothing
        if "images/top" in observation:
            picture = torch.from_numpy(observation["images/top"]).permute(0, 3, 1, 2).float() / 255
            seen = self.before({"observation.state": torch.from_numpy(observation["qpos"]), CAMERA: picture})
        return self.after(self.policy.select_action(seen)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of episodes with one camera, top")
    parser.add_argument("--json", type=Path, required=True, help="results go here")
    parser.add_argument("--minutes", type=float, help="train for so long")
    parser.add_argument("--steps", type=int, help="or for so many steps")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="the width, depth and chunk of our cpu preset")
    parser.add_argument("--lr", type=float, help="learning rate; default: LeRobot's")
    parser.add_argument("--ensemble", type=float, help="temporal ensembling with this coefficient")
    parser.add_argument("--rollouts", type=int, default=100, help="on seeds from 100,000")
    parser.add_argument("--horizon", type=int, default=400)
    args = parser.parse_args()
    if (args.minutes is None) == (args.steps is None):
        parser.error("give --minutes or --steps")

    torch.manual_seed(args.seed)
    small = {"dim_model": 128, "n_heads": 4, "dim_feedforward": 512, "n_encoder_layers": 2, "n_vae_encoder_layers": 1}
    chunk = 50 if args.small else 100
    data = Demonstrations(args.data, chunk)
    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, *data.spec.cameras["top"])),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
        pretrained_backbone_weights=None,
        chunk_size=chunk,
        n_action_steps=chunk if args.ensemble is None else 1,
        temporal_ensemble_coeff=args.ensemble,
        device="cpu",
        **(small if args.small else {}),
        **({} if args.lr is None else {"optimizer_lr": args.lr, "optimizer_lr_backbone": args.lr}),
    )
    policy = ACTPolicy(config)
    before, after = make_act_pre_post_processors(config, data.stats())
    preset = config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())

    start, step, losses = time.perf_counter(), 0, []
    with tqdm(total=args.steps, unit="step", mininterval=10) as bar:
        while step < args.steps if args.steps else time.perf_counter() - start < 60 * args.minutes:
            for starts in torch.randperm(len(data.qpos)).split(args.batch_size):
                policy.train()
                loss, parts = policy(before(data.batch(starts)))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), preset.grad_clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                losses.append(parts["l1_loss"])
                bar.update()
                if step == args.steps or (args.minutes and time.perf_counter() - start >= 60 * args.minutes):
                    break
    minutes = (time.perf_counter() - start) / 60
    print(f"{step} steps of {args.batch_size} in {minutes:.1f} minutes, L1 {np.mean(losses[-200:]):.4f}")

    venv = make_vector_env(data.spec.env_id, 8, cameras=data.spec.cameras, horizon=args.horizon)
    agent = PeerAgent(policy.eval(), before, after)
    with tqdm(total=args.rollouts, unit="episode") as bar:
        results = evaluate(venv, agent, range(100_000, 100_000 + args.rollouts), bar.update)
    venv.close()
    summary = summarize(results)
    for name in ("success_rate", "success_interval", "success_rate_published", "highest_stage"):
        print(name, summary[name])
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    settings |= {"steps": step, "samples": step * args.batch_size, "training_minutes": minutes}
    episodes = [asdict(result) for result in results]
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"settings": settings, "summary": summary, "episodes": episodes}, indent=2))


if __name__ == "__main__":
    main()
