"""Train a policy on a folder of demonstrations.

    python scripts/train.py --data data/transfer_cube --out runs/cube --preset cpu
    python scripts/train.py --data data/transfer_cube --out runs/tiny --preset cpu --steps 20      # seconds on a CPU
    python scripts/train.py --data data/transfer_cube data/human --out runs/both                   # experts and people
    python scripts/train.py --data data/transfer_cube --out runs/flow --policy flow-matching --help   # its own settings

Ctrl-C stops it after a checkpoint. The same command with --resume goes on from there; --out and --resume alone suffice,
since the run folder knows the rest. On more demonstrations, a new run goes on from its weights:

    python scripts/train.py --data data/transfer_cube data/more --out runs/more --init runs/cube

On several GPUs or machines torchrun starts one process for each; --batch-size is theirs together:

    torchrun --nproc-per-node 8 scripts/train.py --data data/transfer_cube --out runs/cube --batch-size 64
"""

import scripts.early  # noqa: F401

# isort: split
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tqdm import tqdm
from tyro.conf import OmitArgPrefixes, Suppress

from act.agent_settings import AgentSettings
from act.errors import ConfigError
from act.policies import POLICIES, make_policy, policy_name
from act.policies.config import AnsweringConfig
from act.presets import settings
from act.run_folder import RunFolder, find_checkpoint, find_data
from act.threads import Threads
from act.train_config import TrainConfig
from demos.episode import find_all_episodes
from demos.notes import dataset_notes
from scripts.common import Terminated, end_at_once, run
from scripts.outputs import check_folder, only_writer
from scripts.tracking import Tracker
from scripts.wandb_run import Mode, mode_from

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.distributed import World
    from act.language import InstructionEncoder
    from act.policies import Policy

SELECTION_SEEDS = 50_000
"""Rollouts during training use seeds from here on. Demonstrations are recorded from 0 and reported results start at
100,000, so a checkpoint is never chosen by the episodes on which it is reported."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train a policy on a folder of demonstrations.

    All settings start from the preset, or, with --resume, from those of the run in the folder; flags override them.
    """

    out: Path
    """Run folder: settings, checkpoints, metrics, curves."""
    data: tuple[Path, ...]
    """One or more folders of episodes: episode_0.hdf5, episode_1.hdf5 and so on."""
    preset: str = "cpu"
    """cpu (two cores, small pictures) or paper (as published)."""
    family: Annotated[str, tyro.conf.arg(name="policy")] = "act"
    """How chunks are generated: act, regression, autoencoder, gan, autoregressive, flow, flow-matching, diffusion."""
    resume: bool = False
    """Continue the run in the folder; start one if there is none. If its data were moved, give --data."""
    init: Path | None = None
    """Start a new run from the weights of another run: its folder or a checkpoint. The policy's settings default to
    those of that run, and the normaliser keeps its statistics, so that at step 0 both act the same."""
    wandb: Mode | None = None
    """Weights & Biases; default: WANDB_MODE, else offline. Online without a login or a connection runs offline and says
    how to upload later."""
    wandb_project: str | None = None
    """W&B project; otherwise WANDB_PROJECT or W&B's default."""
    eval_episodes: int = 20
    """Rollouts in every round of --eval-every, on seeds 50,000 and up, which are neither recorded nor reported."""
    num_envs: int = 4
    """Environments side by side in these rollouts."""
    named_encoder: Suppress[str] = ""
    """The text encoder that the command line names, not config.json: only this one runs, or minilm."""
    policy: Annotated[AnsweringConfig, OmitArgPrefixes]
    training: Annotated[TrainConfig, OmitArgPrefixes]

    def settings(self) -> dict[str, Any]:
        """Flat, as config.json holds them."""
        own = {
            "data": [str(folder.absolute()) for folder in self.data],
            "data_from_run": [_relative(folder, self.out) for folder in self.data],
            "init": None if self.init is None else str(self.init.absolute()),
            "preset": self.preset,
            "policy": self.family,
            "eval_episodes": self.eval_episodes,
        }
        return own | asdict(self.policy) | asdict(self.training)


@dataclass(frozen=True)
class _First:
    """What decides where the other settings start from."""

    out: Path | None = None
    data: tuple[Path, ...] = ()
    preset: str = "cpu"
    policy: str | None = None
    text_encoder: str = ""
    resume: bool = False
    init: Path | None = None


def parse(argv: list[str]) -> Args:
    """The command line over the preset, or over the settings of the run that is resumed."""
    first, _ = tyro.cli(_First, args=argv, add_help=False, return_unknown_args=True)
    stored = RunFolder(first.out).settings() if first.out and first.resume else None
    if stored and first.out:
        data = first.data or find_data(stored, first.out)
        try:
            defaults = {"out": first.out, "data": data, "preset": stored["preset"]}
            defaults["init"] = Path(stored["init"]) if stored.get("init") else None
            family = stored.get("policy", "act")  # the only one there once was
            defaults |= {"eval_episodes": stored["eval_episodes"], "family": family}
            policy, training = _pick(POLICIES[family][0], stored), _pick(TrainConfig, stored)
        except (KeyError, TypeError, ConfigError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{first.out}/config.json is damaged ({reason}); put it back, or train anew") from error
    else:
        family, encoder = first.policy or "act", first.text_encoder
        start = None if first.init is None else _start_from(first.init, first.policy)
        if start is not None:
            family, encoder = policy_name(start), start.text_encoder
        policy, training = settings(first.preset, family, told=bool(encoder))
        policy = start or policy
        defaults = {"out": tyro.MISSING, "data": tyro.MISSING, "preset": first.preset, "family": family}
    defaults["named_encoder"] = first.text_encoder
    return tyro.cli(Args, args=argv, default=Args(**defaults, policy=policy, training=training), description=__doc__)


def _start_from(path: Path, family: str | None) -> AnsweringConfig:
    """The settings of the policy that a new run starts from."""
    from act.checkpoint import read_checkpoint

    stored = read_checkpoint(find_checkpoint(path))
    if (there := stored["policy"]) not in POLICIES or family not in (None, there):
        known = ", ".join(POLICIES) if family is None else family
        raise ConfigError(f"{path} is a policy of the family {there}, and --init cannot make it another one ({known})")
    try:
        return POLICIES[there][0](**stored["policy_config"])
    except TypeError as error:
        raise ConfigError(f"{path} does not fit this version ({error}); use the version that wrote it") from error


def main(args: Args) -> int:
    """Trains, and returns the exit code: 130 if Ctrl-C came first."""
    mode_from(args.wandb, "offline")  # or it raises, before the data are read
    check_folder("--out", args.out)
    (paths, notes), threads = find_all_episodes(args.data), Threads(args.training.threads)
    with only_writer(args.out, "training"):
        return train_on(args, paths, threads, notes)


def train_on(args: Args, paths: Sequence[Path], threads: Threads, notes: Sequence[str] = ()) -> int:
    """`main`, on the episodes in `paths`."""
    from act.distributed import join_world

    with join_world() as world:
        for note in notes if world.is_main else ():
            print(f"note: {note}")
        return train(args, paths, world, threads)


def train(args: Args, paths: Sequence[Path], world: "World", threads: Threads) -> int:
    """The same in one of the processes that torchrun started, or the only one."""
    import torch

    from act.checkpoint import start_from
    from act.curves import plot_curves
    from act.dataset import ChunkDataset
    from act.device import pick_device
    from act.memory import memory_named
    from act.sampling import ShuffledStarts
    from act.train import Trainer

    config, folder = args.training, RunFolder(args.out)
    device = pick_device(world.device(config.device))
    torch.manual_seed(config.seed)
    dataset = ChunkDataset(
        paths,
        args.policy.chunk_size,
        cameras=args.policy.cameras,
        learn_from=config.learn_from,
        val_fraction=config.val_fraction,
        seed=config.seed,
        drop_idle_steps=config.drop_idle_steps,
        drop_failed_grasps=config.drop_failed_grasps,
        beginning_fraction=config.beginning_fraction,
        instructed=bool(args.policy.text_encoder),
        jpeg_colors=config.jpeg_colors,
    )
    if config.eval_every and len(dataset.spec.env_ids) > 1:
        raise ConfigError(f"--eval-every rolls out in one task, and these episodes are of {dataset.spec.env_id}; use 0")
    if config.eval_every and not dataset.spec.env_id:
        raise ConfigError(f"--eval-every needs an environment, and the episodes in {args.data[0]} name none; use 0")
    ShuffledStarts(dataset.train, config.batch_size, 0, accumulate=config.accumulate, size=world.size)  # or it raises
    init = None if folder.last.exists() else args.init
    policy = make_policy(args.policy, dataset.spec, pretrained=not folder.last.exists() and init is None)
    if policy.instruction_encoder is not None:
        policy.instruction_encoder = _instruction_encoder(args, folder)
        dataset.embed(policy.instruction_encoder, fit=args.init is None)
    policy.normalizer.fit(dataset.stats())
    policy.demonstrated_steps = dataset.timeline.longest - policy.chunk_size * config.drop_idle_steps
    if init is not None:
        start_from(policy, init)

    settings = args.settings() | {"episodes": len(dataset.episodes), "data_checksum": dataset.checksum()}
    settings["episodes_checksum"] = dataset.episodes_checksum()
    settings |= {f"episode_{name}": value for name, value in dataset.spec.to_dict().items()}
    before = folder.settings() or {}
    if folder.last.exists():
        settings["init"] = before.get("init")
    world.on_main(lambda: folder.claim(settings, args.resume, config.free_on_resume))
    parameters = sum(p.numel() for p in policy.parameters())
    processes = f", {world.size} processes" if world.size > 1 else ""

    def say(words: str) -> None:
        if words and world.is_main:
            print(words)

    for note in dataset_notes(dataset.episodes):
        say(f"note: {note}")
    starts = f"{len(dataset.train)} starts to train on, {len(dataset.val)} to validate on"
    say(f"data: {starts}, from {len(dataset.episodes)} episodes")
    say(f"targets: {dataset.changes}")
    if before.get("data_checksum", settings["data_checksum"]) != settings["data_checksum"]:
        say("the episodes are those of before, but this version learns otherwise from them than the one before")
    if init is not None:
        say(f"starting from the weights of {find_checkpoint(init)}")
    say(f"policy: {parameters / 1e6:.1f} M parameters on {device}{processes}")
    with ExitStack() as stack:
        mode = mode_from(args.wandb, "offline") if world.is_main else "disabled"
        tracker = stack.enter_context(Tracker(mode, args.out, settings, args.wandb_project))
        evaluate = None
        if config.eval_every and world.is_main:
            evaluate = _make_evaluate(args, policy, stack)

        def log(record: dict[str, float]) -> None:
            tracker.log(record)
            tqdm.write(_line(record))
            if changed := threads.adapt():
                tqdm.write(changed)

        with memory_named(
            lambda: f"{device} has too little for this policy; a smaller one, or --device cpu, would help"
        ):
            trainer = Trainer(policy, dataset, config, folder, evaluate=evaluate, log=log, world=world)
        if trainer.step:
            say(f"continuing after step {trainer.step}")
        if trainer.step < config.steps:
            with memory_named(lambda: _too_large_a_cache(dataset.frames.nbytes, config.cache, device.type)):
                say(dataset.cache(config.cache, device, world.local_size))
                say(threads.adapt())
                say(dataset.encode(policy, device))
        try:
            finished = trainer.run()
        except KeyboardInterrupt as stop:  # the second one; the first one waited for a checkpoint
            end_at_once(143 if isinstance(stop, Terminated) else 130)
    if not world.is_main:
        return 0 if finished else 130
    try:
        print(f"curves: {plot_curves(folder)}")
    except OSError as error:
        print(f"curves: {folder.curves} cannot be written: {error.strerror or error}; {folder.metrics} has the figures")
    if finished:
        print(f"checkpoints: {folder.best} and {folder.last}")
    else:
        print(f"stopped after step {trainer.step}; the same command with --resume continues")
    return 0 if finished else 130


def _too_large_a_cache(size: int, cache: str, device: str) -> str:
    instead = "--cache ram or none" if device == "cuda" and cache != "ram" else "--cache none"
    return f"--cache {cache} keeps {size / 1e9:.2f} GB of frames, and what is made of them; {instead} would help"


def _instruction_encoder(args: Args, folder: RunFolder) -> "InstructionEncoder":
    """What embeds the instructions; where a run continues, with the vectors of its last checkpoint. An encoder that
    only the run folder names does not run."""
    from act.checkpoint import read_checkpoint
    from act.language import InstructionEncoder

    config = args.policy
    source = folder.last if args.resume and folder.last.exists() else args.init
    stored = None if source is None else read_checkpoint(find_checkpoint(source)).get("sentences")
    sentences = InstructionEncoder.from_checkpoint(stored or {"encoder": config.text_encoder, "dim": config.text_dim})
    if args.named_encoder:
        sentences.trust(args.named_encoder)
    return sentences


def _make_evaluate(args: Args, policy: "Policy", stack: ExitStack) -> "Callable[[Policy], dict[str, float]]":
    """Rollouts on the selection seeds in the episodes' own environment, which `stack` closes."""
    from envs.results import evaluate, summarize  # the simulator is loaded only where it is used
    from envs.workers import LostWorker
    from scripts.acting import agent_from, envs_for, request_for

    for name in ("eval_episodes", "num_envs"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    settings, [task] = AgentSettings(), policy.spec.env_ids  # as scripts/rollout.py by default
    request = request_for(settings, policy, task)
    seeds = range(SELECTION_SEEDS, SELECTION_SEEDS + args.eval_episodes)
    if policy.instruction_encoder is not None:
        policy.instruction_encoder([request.instruction(seed) for seed in seeds])  # an encoder that fails does so now
    venv = envs_for(settings, policy, task, min(args.num_envs, args.eval_episodes))
    stack.callback(venv.close, terminate=True)  # without a word: Ctrl-C may have ended its processes already

    def success(policy: "Policy") -> dict[str, float]:
        agent = agent_from(settings, policy, task)
        try:
            summary = summarize(evaluate(venv, agent, seeds, requested=request.variant))
        except LostWorker as error:  # the trainer saves the step before it passes this on
            raise ConfigError(f"{error}. {RunFolder(args.out).last} is whole, --resume continues from there") from error
        names = ("success_rate", "success_rate_published", "mean_jerk", "instruction_followed")
        return {name: summary[name] for name in names if name in summary}

    return success


def _relative(path: Path, start: Path) -> str | None:
    try:
        return os.path.relpath(path.resolve(), start.resolve())
    except ValueError:  # another drive of Windows
        return None


def _pick(config: type, stored: dict[str, Any]) -> Any:
    return config(**{field.name: stored[field.name] for field in fields(config) if field.name in stored})


def _line(record: dict[str, float]) -> str:
    """A record for the eye: the diagnostics are for the curves."""
    shown = [f"{name} {value:.4g}" for name, value in record.items() if "diagnostics" not in name and name != "step"]
    return f"step {record['step']}: {', '.join(shown)}"


if __name__ == "__main__":
    run(main, parse)
