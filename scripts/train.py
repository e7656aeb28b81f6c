"""Train a policy on a folder of demonstrations.

    python scripts/train.py --data data/transfer_cube --out runs/cube --preset cpu
    python scripts/train.py --data data/transfer_cube --out runs/tiny --preset cpu --steps 20      # seconds on a CPU
    python scripts/train.py --data data/transfer_cube data/human --out runs/both                   # experts and people
    python scripts/train.py --data data/transfer_cube --out runs/flow --policy flow-matching --help   # its own settings

Ctrl-C stops it after a checkpoint. The same command with --resume continues; --out and --resume alone suffice, since
the run folder stores the other settings. A new run on more demonstrations can start from its weights:

    python scripts/train.py --data data/transfer_cube data/more --out runs/more --init runs/cube

With several GPUs or machines, torchrun starts one process for each; they share --batch-size:

    torchrun --nproc-per-node 8 scripts/train.py --data data/transfer_cube --out runs/cube --batch-size 64
"""

import scripts.early  # noqa: F401

# isort: split
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tqdm import tqdm
from tyro.conf import OmitArgPrefixes, Suppress

from act.agent_settings import AgentSettings
from act.errors import ConfigError
from act.policies import GENERATORS, PolicySettings
from act.presets import CHUNK_HZ, at_rate, settings
from act.run_folder import RunFolder, find_checkpoint, find_data
from act.threads import Threads
from act.train_config import TrainConfig
from demos.episode import Episode, find_all_episodes
from demos.spec import EpisodeError, EpisodeSpec
from scripts.common import Terminated, end_at_once, run
from scripts.outputs import check_folder, only_writer
from scripts.tracking import Tracker
from scripts.wandb_run import Mode, mode_from

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.distributed import World
    from act.fit import Evaluate
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
    """cpu (two cores, small images) or paper (as published)."""
    family: Annotated[str, tyro.conf.arg(name="policy")] = "act"
    """How chunks are generated: act (a conditional VAE), regression (ACT without its VAE, the cpu preset's),
    autoencoder, gan, autoregressive, flow, flow-matching, diffusion."""
    resume: bool = False
    """Continue the run in the folder; start one if there is none. If its data were moved, pass --data."""
    init: Path | None = None
    """Start a new run from the weights of another one: a run folder or a checkpoint. The policy's settings default to
    its settings, and the normaliser keeps its statistics, so that both policies are the same at step 0."""
    wandb: Mode | None = None
    """Weights & Biases; default: WANDB_MODE, else offline. online without a login or a connection runs offline and
    prints how to upload later."""
    wandb_project: str | None = None
    """W&B project; default: WANDB_PROJECT, else W&B's default."""
    eval_episodes: int = 20
    """Rollouts in every round of --eval-every, on seeds 50,000 and up: neither demonstrations nor reported results use
    these seeds."""
    num_envs: int = 4
    """Environments that run in parallel in these rollouts."""
    named_encoder: Suppress[str] = ""
    """The text encoder that the command line names, not config.json: only this one, or minilm, may run."""
    policy: Annotated[PolicySettings, OmitArgPrefixes]
    training: Annotated[TrainConfig, OmitArgPrefixes]


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
            defaults = {"out": first.out, "data": data, "preset": stored.get("preset", "cpu")}
            defaults["init"] = Path(stored["init"]) if stored.get("init") else None
            family = stored.get("policy", "act")  # the only one there once was
            defaults |= {"eval_episodes": stored.get("eval_episodes", 20), "family": family}
            known = PolicySettings().to_dict() | asdict(GENERATORS[family][0]())
            own = {name: value for name, value in stored.items() if name in known}
            policy, training = PolicySettings.from_dict(family, own), _pick(TrainConfig, stored)
        except (KeyError, TypeError, ConfigError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{first.out}/config.json is damaged ({reason}); put it back, or train anew") from error
    else:
        family, encoder = first.policy, first.text_encoder
        start = None if first.init is None else _start_from(first.init, first.policy)
        if start is not None:
            family, encoder = start.policy, start.text_encoder
        policy, training = settings(first.preset, family, language=bool(encoder))
        policy = start or at_rate(policy, _control_hz(first.data))
        defaults = {"out": tyro.MISSING, "data": tyro.MISSING, "preset": first.preset, "family": policy.policy}
    defaults["named_encoder"] = first.text_encoder
    args = tyro.cli(Args, args=argv, default=Args(**defaults, policy=policy, training=training), description=__doc__)
    if args.family != policy.policy:
        raise ConfigError(f"{args.out} holds a run of the policy {policy.policy}; leave --policy {args.family} out")
    return replace(args, training=replace(args.training, robot=robot_json(args.training.robot, args.data)))


def robot_json(robot: str, data: tuple[Path, ...]) -> str:
    """--robot as JSON: a file is read, with the columns and units of the first episode."""
    if not robot or robot.startswith("{"):  # as a run folder keeps it
        return robot
    from demos.robot_files import robot_for

    found, note = robot_for(robot, Episode(find_all_episodes(data)[0][0], cameras=()))
    if note:
        print(f"note: {note}")
    return found.to_json()


def _control_hz(folders: tuple[Path, ...]) -> float:
    """Of the first episode. An episode that cannot be read is refused later, with its reason."""
    with suppress(EpisodeError, ConfigError, IndexError):
        return Episode(find_all_episodes(folders)[0][0], cameras=()).spec.fps
    return CHUNK_HZ


def _start_from(path: Path, family: str | None) -> PolicySettings:
    """The settings of the policy that a new run starts from."""
    from act.checkpoint import read_checkpoint

    stored = read_checkpoint(find_checkpoint(path))
    if (there := stored["policy"]) not in GENERATORS or family not in (None, there):
        known = ", ".join(GENERATORS) if family is None else family
        raise ConfigError(f"{path} is a policy of the family {there}, and --init cannot make it another one ({known})")
    try:
        return PolicySettings.from_dict(there, stored["policy_config"])
    except TypeError as error:
        raise ConfigError(f"{path} does not fit this version ({error}); use the version that wrote it") from error


def main(args: Args) -> int:
    """Trains, and returns the exit code: 130 if Ctrl-C came first."""
    mode_from(args.wandb, "offline")  # or it raises, before the data are read
    check_folder("--out", args.out)
    find_all_episodes(args.data)  # or it raises, before torch is imported
    threads = Threads(args.training.threads)
    with only_writer(args.out, "training"):
        from act.distributed import join_world

        with join_world() as world:
            return train(args, world, threads)


def train(args: Args, world: "World", threads: Threads) -> int:
    """`main` in one of the processes that torchrun started, or in the only one."""
    from act.fit import prepare

    extra = {"preset": args.preset, "eval_episodes": args.eval_episodes}
    options = {"resume": args.resume, "init": args.init, "text_encoder": args.named_encoder}
    run = prepare(
        args.data, args.policy, args.training, args.out, **options, extra_settings=extra, say=tqdm.write, world=world
    )
    if args.training.eval_every:
        _check_evaluation(args, run.dataset.spec)
    run.claim(args.resume)
    with ExitStack() as stack:
        mode = mode_from(args.wandb, "offline") if world.is_main else "disabled"
        tracker = stack.enter_context(Tracker(mode, args.out, run.settings, args.wandb_project))
        evaluate = None
        if args.training.eval_every and world.is_main:
            evaluate = _make_evaluate(args, run.policy, stack)

        def log(record: dict[str, float]) -> None:
            tracker.log(record)
            tqdm.write(_line(record))

        try:
            result = run.train(evaluate=evaluate, log=log, threads=threads)
        except KeyboardInterrupt as stop:  # the second one; the first one waited for a checkpoint
            end_at_once(143 if isinstance(stop, Terminated) else 130)
    if world.is_main and result.finished:
        print(f"checkpoints: {result.folder.best} and {result.folder.last}")
    elif world.is_main:
        print(f"stopped after step {result.step}; the same command with --resume continues")
    return 0 if result.finished else 130


def _check_evaluation(args: Args, spec: EpisodeSpec) -> None:
    """ConfigError where --eval-every cannot roll out."""
    for name in ("eval_episodes", "num_envs"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if len(spec.env_ids) > 1:
        tasks = ", ".join(spec.env_ids)
        raise ConfigError(f"--eval-every rolls out in one task, and these episodes are of {tasks}; use --eval-every 0")
    if not spec.env_ids:
        raise ConfigError(
            f"--eval-every needs an environment, and the episodes in {args.data[0]} name none; use --eval-every 0"
        )


def _make_evaluate(args: Args, policy: "Policy", stack: ExitStack) -> "Evaluate":
    """Rollouts on the selection seeds in the episodes' own environment, which `stack` closes."""
    from envs.results import evaluate, summarize  # the simulator is loaded only where it is used
    from envs.workers import LostWorker
    from scripts.acting import agent_for, envs_for, request_for

    settings, [task] = AgentSettings(), policy.spec.env_ids  # as scripts/rollout.py by default
    request = request_for(settings, policy, task)
    seeds = range(SELECTION_SEEDS, SELECTION_SEEDS + args.eval_episodes)
    if policy.instruction_encoder is not None:
        policy.instruction_encoder([request.instruction(seed) for seed in seeds])  # an encoder that fails does so now
    venv = envs_for(settings, policy, task, min(args.num_envs, args.eval_episodes))
    stack.callback(venv.close, terminate=True)  # without a word: Ctrl-C may have ended its processes already

    def success(policy: "Policy") -> dict[str, float]:
        agent = agent_for(settings, policy, task)
        try:
            summary = summarize(evaluate(venv, agent, seeds, requested=request.variant))
        except LostWorker as error:  # the trainer saves the step before it passes this on
            raise ConfigError(f"{error}. {RunFolder(args.out).last} is whole, --resume continues from there") from error
        names = ("success_rate", "success_rate_published", "mean_jerk", "instruction_followed")
        return {name: summary[name] for name in names if name in summary}

    return success


def _pick(config: type, stored: dict[str, Any]) -> Any:
    return config(**{field.name: stored[field.name] for field in fields(config) if field.name in stored})


def _line(record: dict[str, float]) -> str:
    """A record for the eye: the diagnostics are for the curves."""
    shown = [f"{name} {value:.4g}" for name, value in record.items() if "diagnostics" not in name and name != "step"]
    return f"step {record['step']}: {', '.join(shown)}"


if __name__ == "__main__":
    run(main, parse)
