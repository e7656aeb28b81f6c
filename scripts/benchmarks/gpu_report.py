"""All that matters on one accelerator, in one run of a few minutes: throughput, latency, rendering, a whole policy.

Each part writes its own JSON into the folder as soon as it is done, so that a run that was cut off is continued with
`--only` and the table is made of all parts that are there.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile

from act.agent_settings import AgentSettings
from act.run_folder import write_atomically
from envs import TASKS
from envs.aloha import HOME_ACTION
from scripts.acting import agent_from
from scripts.benchmarks.learning import (
    Mode,
    flops_per_sample,
    make,
    make_batch,
    matmul_peak,
    stepping,
    timed,
)
from scripts.benchmarks.peers import Peer
from scripts.benchmarks.sizes import Sizes
from scripts.benchmarks.whole_line import policy_part, table_part
from scripts.common import columns
from scripts.rollout import flat

PARTS = ("train", "infer", "render", "policy", "table")


def gpu_report(folder: Path, parts: tuple[str, ...], device: torch.device, peer: Peer | None, sizes: Sizes) -> str:
    """Does the parts and returns the table of all that are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "train": lambda: train_part(folder, device, peer, sizes),
        "infer": lambda: infer_part(device, sizes),
        "render": lambda: render_part(sizes),
        "policy": lambda: policy_part(folder, device, sizes),
        "table": lambda: table_part(folder, device, sizes),
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    for part in parts:
        start = time.perf_counter()
        print(f"{part} on {name} …", flush=True)
        figures = works[part]() | {"device": name, "torch": torch.__version__}
        figures["seconds"] = time.perf_counter() - start
        write_atomically(folder / f"{part}.json", json.dumps(figures, indent=2).encode())
    done = {part: folder / f"{part}.json" for part in PARTS}
    figures = {part: json.loads(path.read_text()) for part, path in done.items() if path.exists()}
    return report(figures)


def modes_of(device: torch.device) -> list[Mode]:
    """From plain float32 to all that helps."""
    if device.type == "cuda":
        return [Mode("float32"), Mode("tf32"), Mode("bfloat16"), Mode("tf32", True), Mode("bfloat16", True)]
    return [Mode("float32"), Mode("bfloat16")]


def train_part(folder: Path, device: torch.device, peer: Peer | None, sizes: Sizes) -> dict[str, Any]:
    """Samples per second and share of the bfloat16 peak for every mode and batch size, and a profile of the best."""
    policy = make(sizes.config, sizes.frame, device)
    flops = flops_per_sample(policy, make_batch(policy.spec, policy.chunk_size, 1, device))
    peak = matmul_peak(device, torch.bfloat16)
    figures: dict[str, Any] = {"flops_per_sample": flops, "bfloat16_matmul_peak": peak, "runs": []}
    for mode in modes_of(device):
        for size in sizes.batches:
            run = {"mode": str(mode), "batch": size} | _throughput(sizes, mode, size, device)
            if "samples_per_s" in run:
                run["mfu"] = run["samples_per_s"] * flops / peak
            figures["runs"].append(run)
            print(f"  {run}", flush=True)
    if peer is not None:
        height, width = sizes.frame
        for size in sizes.batches[:3]:
            asked = dict(height=height, width=width, chunk=sizes.config.chunk_size, size=size, device=str(device))
            ms = peer.ask("train", steps=sizes.steps, **asked)
            figures["runs"].append({"mode": "LeRobot, float32", "batch": size, "samples_per_s": 1e3 * size / ms})
    measured = [run for run in figures["runs"] if "mfu" in run]
    best = max(measured, key=lambda run: run["samples_per_s"])
    mode = next(mode for mode in modes_of(device) if str(mode) == best["mode"])
    figures["profile"] = _profile(folder, sizes, mode, best["batch"], device)
    _plot_throughput(figures["runs"], folder / "throughput.png")
    return figures


def _throughput(sizes: Sizes, mode: Mode, size: int, device: torch.device) -> dict[str, Any]:
    policy = make(sizes.config, sizes.frame, device)
    try:
        batch = make_batch(policy.spec, policy.chunk_size, size, device)
        with stepping(policy, mode, device) as step:
            start = time.perf_counter()
            step(batch)
            step(batch)
            first = time.perf_counter() - start
            seconds = timed(lambda: step(batch), sizes.steps, device)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        torch.compiler.reset()
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {"samples_per_s": size / seconds, "first_two_steps_s": first, "memory_gb": memory}


def _profile(folder: Path, sizes: Sizes, mode: Mode, size: int, device: torch.device) -> list[dict[str, Any]]:
    """Where the time of the best run goes: the dearest kernels, also as a table in profile.txt."""
    policy = make(sizes.config, sizes.frame, device)
    batch = make_batch(policy.spec, policy.chunk_size, size, device)
    cuda = device.type == "cuda"
    with stepping(policy, mode, device) as step:
        for _ in range(3):
            step(batch)
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
            timed(lambda: step(batch), 3, device)
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = profiler.key_averages()
    (folder / "profile.txt").write_text(events.table(sort_by=key, row_limit=30, max_name_column_width=80))
    total = sum(getattr(event, key) for event in events) or 1
    dearest = sorted(events, key=lambda event: getattr(event, key), reverse=True)[:12]
    return [{"kernel": event.key, "share": getattr(event, key) / total, "calls": event.count} for event in dearest]


def _plot_throughput(runs: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="batch size", ylabel="samples / s", xscale="log", ylim=(0, None))
    for mode in dict.fromkeys(run["mode"] for run in runs):
        points = [
            (run["batch"], run["samples_per_s"]) for run in runs if run["mode"] == mode and "samples_per_s" in run
        ]
        axes.plot(*zip(*points, strict=True), marker="o", label=mode) if points else None
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def infer_part(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Latency from observations on the host to chunks on the host, as `PolicyAgent` has it."""
    runs = []
    for mode in (Mode("float32"), Mode("bfloat16"), Mode("bfloat16", compile=True)):
        for size in sizes.observations:
            policy = make(sizes.config, sizes.frame, device).eval()
            seen = make_batch(policy.spec, policy.chunk_size, size, torch.device("cpu")).observation
            observation = {"qpos": seen.qpos.numpy(), "images/top": seen.images["top"].numpy()}
            dtype = "bfloat16" if mode.precision == "bfloat16" else "float32"
            settings = AgentSettings(n_action_steps=policy.chunk_size, compile=mode.compile, dtype=dtype)
            agent = agent_from(settings, policy, "")
            for _ in range(sizes.queries + 10):
                agent.reset(range(size), observation)
                agent(observation)
            p50, p99 = np.quantile(agent.latencies[9:], (0.5, 0.99))
            runs.append({"mode": str(mode), "batch": size, "p50_ms": 1e3 * float(p50), "p99_ms": 1e3 * float(p99)})
            print(f"  {runs[-1]}", flush=True)
    torch.compiler.reset()
    return {"runs": runs}


def render_part(sizes: Sizes) -> dict[str, Any]:
    """Frames and control steps per second, of one process and of many at once."""
    runs = []
    for height, width in ((120, 160), sizes.frame):
        for processes in (1, sizes.processes):
            with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
                jobs = [(i, height, width, sizes.frames) for i in range(processes)]
                list(pool.map(_render, jobs))  # imports, and the first frames
                start = time.perf_counter()
                list(pool.map(_render, jobs))
                seconds = time.perf_counter() - start
            rate = processes * sizes.frames / seconds
            runs.append({"frame": f"{height} x {width}", "processes": processes, "frames_per_s": rate})
            print(f"  {runs[-1]}", flush=True)
    return {"runs": runs}


_env: gym.Env | None = None


def _render(job: tuple[int, int, int, int]) -> None:
    """Steps an environment and renders every step, in a worker that keeps it."""
    global _env
    seed, height, width, frames = job
    if _env is None:
        name = TASKS["transfer_cube"]
        _env = gym.make(name, cameras=("top",), height=height, width=width, disable_env_checker=True)
    _env.reset(seed=seed)
    for _ in range(frames):
        _env.step(HOME_ACTION)


def report(figures: dict[str, dict[str, Any]]) -> str:
    """The table of all parts."""
    lines = [("", "measured")]
    for part, found in figures.items():
        lines.append((f"{part}: seconds, on {found['device']}", f"{found['seconds']:.0f}"))
        for run in found.get("runs", []):
            key = ("mode", "batch", "frame", "processes")
            name = ", ".join(f"{word} {run[word]}" if word != "mode" else run[word] for word in key if word in run)
            values = ", ".join(f"{n} {v:.4g}" for n, v in run.items() if n not in key and isinstance(v, int | float))
            lines.append((f"  {name}", values))
        for kernel in found.get("profile", [])[:5]:
            lines.append((f"  best run: {kernel['kernel'][:60]}", f"{100 * kernel['share']:.0f} %"))
        rest = {n: v for n, v in found.items() if n not in ("runs", "profile", "seconds", "device", "torch")}
        for name, value in flat({n: v for n, v in rest.items() if not isinstance(v, str)}).items():
            lines.append((f"  {name}", f"{value:.4g}"))
    return columns(lines)
