"""Roll a trained policy out on unseen seeds and report how often it succeeds.

    python scripts/rollout.py --checkpoint runs/cube --episodes 50 --videos 4 --json results.json
    python scripts/rollout.py --checkpoint runs/tiny --episodes 4 --num-envs 2           # seconds on a CPU

Per-seed results do not depend on --num-envs, up to rounding: a batch of another size sums floating point numbers in
another order. Started by torchrun, every process rolls out its share of the seeds, and one report is made of all.
"""

import scripts.early  # noqa: F401

# isort: split
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tqdm import tqdm
from tyro.conf import OmitArgPrefixes

from act.agent_settings import AgentSettings
from act.errors import ConfigError
from act.run_folder import find_checkpoint, output_folder
from envs import short_name
from envs.results import EpisodeResult, evaluate, summarize
from envs.video import VideoRecorder
from envs.workers import LostWorker
from scripts.acting import agent_for, envs_for, request_for, resolved, tasks_of
from scripts.common import run
from scripts.outputs import check_file, check_folder, keep
from scripts.tracking import Tracker
from scripts.wandb_run import Mode, mode_from

if TYPE_CHECKING:  # with torch and timm these take seconds, which nobody waits for to read --help
    from act.agent import PolicyAgent


@dataclass(frozen=True)
class Args:
    """Roll a trained policy out on unseen seeds and report how often it succeeds."""

    checkpoint: Path
    """A run folder (best.pt, or last.pt if there is no best yet) or a checkpoint file."""
    episodes: int = 50
    """Number of seeds; --samples-per-seed episodes of each."""
    seed: int = 100_000
    """First seed. Demonstrations use seeds below 50,000, the selection of checkpoints those from 50,000 on."""
    samples_per_seed: int = 1
    """Episodes of each seed: the same initial state, and other noise with --sample episode or chunk."""
    num_envs: int = 8
    """Environments that run in parallel, each in a process; the policy predicts for all of them in one batch."""
    task: str | None = None
    """Task; default: the one that the policy was trained on. all: all that it was trained on, one after the other."""
    agent: Annotated[AgentSettings, OmitArgPrefixes] = field(default_factory=AgentSettings)
    text_encoder: str | None = None
    """module:function of the policy's text encoder, which embeds instructions that are new to the policy. Encoders
    other than minilm run only if they are named here."""
    videos: int = 0
    """Number of episodes to record as videos, the first ones, failures included; with the instruction as a caption."""
    video_dir: Path | None = None
    """Folder of the videos; default: rollout/ beside the checkpoint."""
    json: Path | None = None
    """Write settings, summary and per-seed results to this file."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: CUDA if there is one."""
    wandb: Mode | None = None
    """Log to the W&B run of the run folder; default: WANDB_MODE, else disabled."""
    wandb_project: str | None = None
    """W&B project; default: WANDB_PROJECT, else W&B's default."""


def main(args: Args) -> None:
    for name in ("episodes", "num_envs", "samples_per_seed"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if args.samples_per_seed > 1 and (args.agent.sample == "mean" or args.videos):
        wrong = "--videos films each seed once" if args.videos else "--sample mean draws nothing"
        raise ConfigError(
            f"{wrong}, so --samples-per-seed {args.samples_per_seed} is of no use; use --samples-per-seed 1"
        )
    mode_from(args.wandb, "disabled")  # or it raises, before anything is rolled out
    check_file("--json", args.json)
    checkpoint = find_checkpoint(args.checkpoint)
    folder = output_folder(checkpoint)
    video_dir = args.video_dir or folder / "rollout"
    check_folder("--video-dir", video_dir if args.videos else None, "name another --video-dir")
    if args.wandb not in (None, "disabled"):
        check_folder("--wandb", Path(os.environ.get("WANDB_DIR") or folder), "set WANDB_DIR to another folder")

    from act.checkpoint import checksum, load_policy
    from act.device import pick_device
    from act.distributed import join_world

    with join_world() as world:
        device = pick_device(world.device(args.device))
        policy = load_policy(checkpoint, device, args.agent.sampling, args.text_encoder)
        args = replace(args, agent=resolved(args.agent, policy))
        source = {"checkpoint": str(checkpoint.absolute()), "checkpoint_sha256": checksum(checkpoint)}
        seeds = range(args.seed, args.seed + args.episodes)
        tasks = tasks_of(args.checkpoint, policy.spec, args.task, several=True)
        for task in tasks:
            place = video_dir / short_name(task) if len(tasks) > 1 else video_dir
            films = {seed: place / f"seed_{seed}.mp4" for seed in seeds[: args.videos]}
            agent = agent_for(args.agent, policy, task)
            mine: list[EpisodeResult] = []
            try:
                roll_out(args, task, agent, seeds[world.rank :: world.size], films, mine)
            except (KeyboardInterrupt, LostWorker) as stop:
                if world.size > 1 or not mine:
                    raise
                shown = {seed: films[seed] for seed in films if any(seed == result.seed for result in mine)}
                own = replace(args, json=_json_of(args, task, tasks), wandb="disabled")
                report(own, task, source, folder, mine, agent.latencies, shown, interrupted=True)
                ended = (
                    f"{len(mine)} of {args.episodes * args.samples_per_seed} episodes in {short_name(task)} had ended"
                )
                raise type(stop)(f"{stop}. {ended}" if str(stop) else ended) from None
            shares = world.gather((mine, agent.latencies))
            if not world.is_main:
                continue
            own = replace(args, json=_json_of(args, task, tasks))
            results = sorted((result for share, _ in shares for result in share), key=lambda result: result.seed)
            report(own, task, source, folder, results, [second for _, some in shares for second in some], films)


def _json_of(args: Args, task: str, tasks: Sequence[str]) -> Path | None:
    """Where the results of one of the tasks go."""
    if len(tasks) == 1 or args.json is None:
        return args.json
    return args.json.with_stem(f"{args.json.stem}_{short_name(task)}")


def roll_out(
    args: Args,
    task: str,
    agent: "PolicyAgent",
    seeds: Sequence[int],
    films: Mapping[int, Path],
    results: list[EpisodeResult],
) -> None:
    """This process' share of the episodes, added to `results` as they end; those in `films` are filmed, with the words
    that they are told."""
    if not seeds:
        return
    if agent.policy.instruction_encoder is not None:
        agent.policy.instruction_encoder([agent.instruct(seed) for seed in seeds])  # an encoder that fails does so now
    seeds = [seed for seed in seeds for _ in range(args.samples_per_seed)]
    waves = max(1, args.num_envs // args.samples_per_seed) * args.samples_per_seed  # all draws of a seed in one of them
    render_mode = "rgb_array" if films else None
    requested = request_for(args.agent, agent.policy, task).variant
    venv = envs_for(args.agent, agent.policy, task, min(waves, len(seeds)), render_mode)
    film = VideoRecorder(venv, {seed: films[seed] for seed in seeds if seed in films}, agent.instruct)
    try:
        with tqdm(total=len(seeds), desc=f"rolling out {task}", unit="episode", disable=seeds[0] > args.seed) as bar:
            evaluate(venv, agent, seeds, bar.update, film, requested, results)
    finally:
        film.close()
        venv.close()


def report(
    args: Args,
    task: str,
    source: Mapping[str, str],
    folder: Path,
    results: Sequence[EpisodeResult],
    latencies: Sequence[float],
    films: Mapping[int, Path],
    interrupted: bool = False,
) -> None:
    """Tells what came of all episodes, or of those before an interruption: on the screen, as JSON, in W&B. `source` is
    the checkpoint that was loaded."""
    from act.checkpoint import read_checkpoint

    summary = summarize(results) | {
        "inference_ms": {q: 1e3 * float(np.quantile(latencies, p)) for q, p in (("p50", 0.5), ("p99", 0.99))}
        if latencies
        else None,
        "inference_batch": min(args.num_envs, len(results)),
    }
    rows = [asdict(result) for result in results]
    problems = []
    if args.json is not None:
        settings = asdict(args) | asdict(args.agent) | {**source, "env_id": task}
        settings |= {"interrupted": True} if interrupted else {}
        del settings["agent"]
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        text = json.dumps({"settings": settings, "summary": summary, "episodes": rows}, indent=2)
        problems.append(keep(args.json, lambda path: path.write_text(text)))
    print(table(task, [result.seed for result in results], summary))
    if args.json is not None and not any(problems):
        print(f"results: {args.json}")
    shown = {f"seed_{seed}": path for seed, path in films.items() if path.exists()}
    if films:
        print(f"films: {next(iter(films.values())).parent}")
        problems.append("" if len(shown) == len(films) else f"{len(films) - len(shown)} films could not be written")
    with Tracker(mode_from(args.wandb, "disabled"), folder, {}, args.wandb_project) as tracker:
        step = read_checkpoint(Path(source["checkpoint"]))["step"]
        tracker.log({"step": step, **{f"rollout/{name}": value for name, value in flat(summary).items()}})
        tracker.log_table(step, "rollout/episodes", rows)
        tracker.log_videos(step, shown)
    if any(problems):
        raise ConfigError("; ".join(filter(None, problems)))


def table(task: str, seeds: Sequence[int], summary: dict) -> str:
    """The summary for the screen."""

    def rate(key: str) -> str:
        low, high = summary[f"success_interval{key}"]
        return f"{100 * summary[f'success_rate{key}']:5.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f} %"

    stages = "  ".join(f"{stage}: {count}" for stage, count in summary["highest_stage"].items())
    step, inference = summary["median_success_step"], summary["inference_ms"]
    variants = "  ".join(f"{variant}: {count}" for variant, count in summary.get("variants", {}).items())
    followed = summary.get("instruction_followed")
    lines = [
        ("task", f"{task}, {summary['episodes']} episodes, seeds {seeds[0]} to {seeds[-1]}"),
        ("success, strict", rate("")),
        ("success, published", rate("_published")),
        ("highest stage", f"{stages}   (stage: episodes)"),
        *([("variants", f"{variants}   (variant: successes)")] if variants else []),
        *([("instruction followed", f"{100 * followed:5.1f} %")] if followed is not None else []),
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
