"""Roll a trained policy out on unseen seeds and report how often it succeeds.

    python scripts/rollout.py --checkpoint runs/cube --episodes 50 --videos 4 --json results.json
    python scripts/rollout.py --checkpoint runs/tiny --episodes 4 --num-envs 2           # seconds on a CPU

Per-seed results do not depend on --num-envs, up to rounding: a batch of another size sums floating point numbers in
another order. Started by torchrun, every process rolls out its share of the seeds, and one report is made of all.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from act.chunking import ChunkExecutor, RecedingHorizon, TemporalEnsemble, default_executor
from act.errors import ConfigError
from act.policies.config import SAMPLING, Sample
from act.run_folder import find_checkpoint
from demos.experts import choose
from demos.phrases import SEEN, UNSEEN, told
from demos.record import spec_of
from demos.spec import EpisodeSpec
from envs import env_id, short_name
from envs.film import Film
from envs.results import EpisodeResult, evaluate, summarize
from envs.rollout import make_vector_env
from scripts.common import run
from scripts.tracking import Tracker

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.agent import PolicyAgent
    from act.policies import Policy


@dataclass(frozen=True)
class Args:
    """Roll a trained policy out on unseen seeds and report how often it succeeds."""

    checkpoint: Path
    """A run folder (its best checkpoint, or the last before there is a best) or one checkpoint file."""
    episodes: int = 50
    """One episode per seed."""
    seed: int = 100_000
    """First seed. Demonstrations come from seeds below 50,000, checkpoints are selected on seeds from there."""
    draws: int = 1
    """Episodes of each seed, side by side: the same beginning, and other draws where --sample draws."""
    num_envs: int = 8
    """Environments that run side by side, a process each; the policy answers all of them at once."""
    task: str | None = None
    """Task to run in; default: the one that the policy was trained on. all: one after the other, all of those."""
    instruction: str | None = None
    """What a policy that listens is told in every episode; default: one of the phrasings of the task, another one in
    every episode, and of the task's ways too."""
    phrases: Literal["seen", "unseen", "none"] = "seen"
    """Which phrasings these are: of the grammar that demonstrations are told with, others that mean the same, or none:
    numbers that mean all instructions and no particular one."""
    way: str | None = None
    """Of a task with several ways: the one that is asked for in every episode."""
    execute: int | None = None
    """Execute this many actions of each chunk before the policy looks again, without ensembling."""
    ensemble: float | None = None
    """Temporal ensembling with this coefficient: the policy looks every --every steps. By default 0.01, as in the
    paper, with ten looks a chunk."""
    every: int = 1
    """With --ensemble: steps between two looks."""
    sample: Sample = "mean"
    """Of several ways to go on, which a learned prior of z may tell apart: mean takes the one in their middle, episode
    draws one for the whole episode, chunk draws anew at every look."""
    sampling_steps: int | None = None
    """Of flow matching and diffusion: steps from noise to a chunk; default: as the policy was trained with."""
    temperature: float | None = None
    """Of autoregressive policies and flows: below 1, what is drawn is less varied."""
    top_p: float | None = None
    """Of autoregressive policies: draw among the most likely tokens that together have this probability."""
    codes: Literal["gaussian", "code"] | None = None
    """Of autoencoders: draw z from a normal distribution fitted to the codes, or take one of them."""
    horizon: int | None = None
    """Steps of an episode; default: 1.2 times what the longest demonstration took without its pauses, at least 400."""
    videos: int = 0
    """How many of the episodes to film, failures not sorted out; what the policy is told is written in."""
    video_dir: Path | None = None
    """Where the films go; default: rollout/ beside the checkpoint."""
    json: Path | None = None
    """Write settings, summary and per-seed results to this file."""
    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Precision of the policy; auto is bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16, where it is faster."""
    compile: bool = False
    """Compile the policy: a minute at the start, faster answers."""
    wandb: Literal["offline", "online", "disabled"] = "disabled"
    """Log to the W&B run of the run folder."""
    wandb_project: str | None = None
    """Its project; without it, WANDB_PROJECT or W&B's own default."""


def executor_for(args: Args, policy: "Policy") -> ChunkExecutor:
    if args.ensemble is not None:
        return TemporalEnsemble(policy.chunk_size, args.ensemble, args.every)
    if args.execute is not None:
        return RecedingHorizon(policy.chunk_size, args.execute)
    return default_executor(policy.chunk_size)


def main(args: Args) -> None:
    for name in ("episodes", "num_envs", "draws"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if args.draws > 1 and (args.sample == "mean" or args.videos):
        wrong = "--videos films each seed once" if args.videos else "--sample mean draws nothing"
        raise ConfigError(f"{wrong}, so --draws {args.draws} is of no use; use --draws 1")
    checkpoint = find_checkpoint(args.checkpoint)

    from act.agent import PolicyAgent
    from act.checkpoint import load_policy
    from act.device import pick_device, pick_dtype
    from act.distributed import join_world

    with join_world() as world:
        device = pick_device(world.device(args.device))
        sampling = {name: value for name in SAMPLING if (value := getattr(args, name)) is not None}
        policy = load_policy(checkpoint, device, sampling)
        seeds = range(args.seed, args.seed + args.episodes)
        # The newest few checkpoints of a run lie one folder further down.
        folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
        video_dir = args.video_dir or folder / "rollout"
        dtype = pick_dtype(args.dtype, device)
        tasks = tasks_of(args, policy.spec)
        for task in tasks:
            place = video_dir / short_name(task) if len(tasks) > 1 else video_dir
            films = {seed: place / f"seed_{seed}.mp4" for seed in seeds[: args.videos]}
            asked, instruct = orders(args, task, policy)
            agent = PolicyAgent(policy, executor_for(args, policy), args.compile, dtype, args.sample, instruct)
            mine = roll_out(args, task, agent, seeds[world.rank :: world.size], films)
            shares = world.gather((mine, agent.latencies))
            if not world.is_main:
                continue
            own = replace(args, horizon=args.horizon or policy.horizon)
            if len(tasks) > 1 and args.json is not None:
                own = replace(own, json=args.json.with_stem(f"{args.json.stem}_{short_name(task)}"))
            results = sorted((result for share, _ in shares for result in share), key=lambda result: result.seed)
            results = [replace(result, asked=asked(result.seed)) for result in results]
            report(own, task, checkpoint, folder, results, [second for _, some in shares for second in some], films)


def tasks_of(args: Args, spec: EpisodeSpec) -> list[str]:
    """Gymnasium ids of the tasks to roll out in."""
    learnt, several = ", ".join(map(short_name, spec.env_ids)), len(spec.env_ids) > 1
    if args.task in (None, "all") and not spec.env_ids:
        raise ConfigError(f"{args.checkpoint} was not trained on a simulated task; name one with --task")
    if args.task is None and several:
        raise ConfigError(f"{args.checkpoint} learnt {learnt}; name one of them with --task, or all")
    tasks = list(spec.env_ids) if args.task in (None, "all") else [env_id(args.task)]
    if several and tasks[0] not in spec.env_ids:
        raise ConfigError(f"{args.checkpoint} did not learn {short_name(tasks[0])}; it learnt {learnt}")
    return tasks


def orders(args: Args, task: str, policy: "Policy") -> tuple[Callable[[int], str], Callable[[int], str | None]]:
    """Of an episode's seed: the way that is asked for, "" for any, and the words; a policy may not listen to them."""
    grammars = SEEN.get(task, {"": ()})
    if args.way is not None and args.way not in grammars:
        raise ConfigError(f"unknown way {args.way!r} of {short_name(task)}; its ways: {', '.join(grammars)}")
    if policy.sentences is None:
        if args.instruction is not None or args.way is not None:
            raise ConfigError(
                f"{args.checkpoint} listens to no instructions; train a policy with --text-encoder minilm"
            )
        return lambda seed: "", lambda seed: None
    if args.instruction is not None or args.phrases == "none":
        return lambda seed: args.way or "", lambda seed: args.instruction

    def asked(seed: int) -> str:
        return choose(grammars, seed) if args.way is None else args.way

    def words(seed: int) -> str | None:
        way = asked(seed)
        known = UNSEEN.get(task, {}).get(way, ()) if args.phrases == "unseen" else told(task, way, seed)
        return known[seed % len(known)] if known else None

    return asked, words


def roll_out(
    args: Args, task: str, agent: "PolicyAgent", seeds: Sequence[int], films: Mapping[int, Path]
) -> list[EpisodeResult]:
    """This process' share of the episodes, those in `films` filmed, with the words that they are told."""
    from act.checkpoint import check_env_matches

    policy = agent.policy
    cameras = {name: policy.spec.cameras[name] for name in policy.cameras}
    check_env_matches(policy, spec_of(gym.make(task, cameras=cameras)))
    if not seeds:
        return []
    seeds = [seed for seed in seeds for _ in range(args.draws)]
    waves = max(1, args.num_envs // args.draws) * args.draws  # all draws of a seed in one of them
    venv = make_vector_env(
        task,
        min(waves, len(seeds)),
        cameras=cameras,
        horizon=args.horizon or policy.horizon,
        render_mode="rgb_array" if films else None,
    )
    try:
        film = Film(venv, {seed: films[seed] for seed in seeds if seed in films}, agent.instruct)
        with tqdm(total=len(seeds), desc=f"rolling out {task}", unit="episode", disable=seeds[0] > args.seed) as bar:
            return evaluate(venv, agent, seeds, bar.update, film)
    finally:
        venv.close()


def report(
    args: Args,
    task: str,
    checkpoint: Path,
    folder: Path,
    results: Sequence[EpisodeResult],
    latencies: Sequence[float],
    films: Mapping[int, Path],
) -> None:
    """Tells what came of all episodes: on the screen, as JSON, in W&B."""
    from act.checkpoint import read_checkpoint

    summary = summarize(results) | {
        "inference_ms": {q: 1e3 * float(np.quantile(latencies, p)) for q, p in (("p50", 0.5), ("p99", 0.99))}
        if latencies
        else None,
        "inference_batch": min(args.num_envs, len(results)),
    }
    rows = [asdict(result) for result in results]
    print(table(task, [result.seed for result in results], summary))
    if films:
        print(f"films: {next(iter(films.values())).parent}")
    if args.json is not None:
        settings = asdict(args) | {"checkpoint": checkpoint, "env_id": task}
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"settings": settings, "summary": summary, "episodes": rows}, indent=2))
        print(f"results: {args.json}")
    with Tracker(args.wandb, folder, {}, args.wandb_project) as tracker:
        step = read_checkpoint(checkpoint)["step"]
        tracker.log({"step": step, **{f"rollout/{name}": value for name, value in flat(summary).items()}})
        tracker.log_table(step, "rollout/episodes", rows)
        tracker.log_videos(step, {f"seed_{seed}": path for seed, path in films.items()})


def table(task: str, seeds: Sequence[int], summary: dict) -> str:
    """The summary for the screen."""

    def rate(key: str) -> str:
        low, high = summary[f"success_interval{key}"]
        return f"{100 * summary[f'success_rate{key}']:5.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f} %"

    stages = "  ".join(f"{stage}: {count}" for stage, count in summary["highest_stage"].items())
    step, inference = summary["median_success_step"], summary["inference_ms"]
    ways = "  ".join(f"{way}: {count}" for way, count in summary.get("ways", {}).items())
    lines = [
        ("task", f"{task}, {summary['episodes']} episodes, seeds {seeds[0]} to {seeds[-1]}"),
        ("success, strict", rate("")),
        ("success, published", rate("_published")),
        ("highest stage", f"{stages}   (stage: episodes)"),
        *([("ways", f"{ways}   (way: successes)")] if ways else []),
        *([("as it was asked", f"{100 * summary['obeyed']:5.1f} %")] if "obeyed" in summary else []),
        ("time to success", f"{step / 50:.1f} s in the median" if step else "no success"),
        ("smoothness", f"jerk {summary['mean_jerk']:.1f} rad/s³"),
    ]
    if inference:
        times = f"{inference['p50']:.1f} ms median, {inference['p99']:.1f} ms p99"
        lines.append(("inference", f"{times}, {summary['inference_batch']} at once"))
    return "\n".join(f"{name:<19} {value}" for name, value in lines)


def flat(values: dict, prefix: str = "") -> dict[str, float]:
    """Nested numbers → one level, names joined by slashes."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (tuple, list)):
            found |= flat({"low": value[0], "high": value[1]}, f"{prefix}{name}/")
        elif value is not None:
            found[prefix + str(name)] = value
    return found


if __name__ == "__main__":
    run(main, Args)
