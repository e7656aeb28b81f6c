"""From nothing to a policy, and the paper's table: recording, training and rollouts through the real scripts."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from act.run_folder import RunFolder, write_atomically
from envs.results import read_results
from scripts.benchmarks.sizes import Sizes

SCRIPTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One of the paper's figures: more flags of train.py and rollout.py, and the folder of the policy."""

    name: str
    task: str
    run: str
    train: str = ""
    rollout: str = ""


TABLE = (
    Row("transfer cube", "transfer_cube", "run"),
    Row("insertion", "insertion", "run_insertion"),
    Row(
        "transfer cube, temporal ensembling",
        "transfer_cube",
        "run",
        rollout="--temporal-ensemble-coeff 0.01 --replan-every 5",
    ),
    Row("transfer cube, no CVAE", "transfer_cube", "run_no_vae", "--no-use-vae"),
    *(Row(f"transfer cube, chunks of {k}", "transfer_cube", f"run_{k}", f"--chunk-size {k}") for k in (1, 10, 100)),
)
"""Zhao et al. 2023, section VI, in the order of interest."""


def policy_part(folder: Path, device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """From nothing to a policy: record, train from scratch, roll out on unseen seeds, through the real scripts."""
    films = f"--videos {min(4, sizes.rollouts)}"
    return whole_line(folder, device, sizes, "transfer_cube", "run", "rollouts.json", sizes.rollouts, rollout=films)


def whole_line(
    folder: Path,
    device: torch.device,
    sizes: Sizes,
    task: str,
    name: str,
    results: str,
    rollouts: int,
    train: str = "",
    rollout: str = "",
) -> dict[str, Any]:
    """Demonstrations of a task, a policy and its rollouts; what is in the folder already is not made again.

    Args:
        name: of the policy's folder.
        results: of the rollouts' file.
        train, rollout: more flags of these scripts.
    """
    data, run, told = folder / f"data_{task}", folder / name, folder / results
    height, width = sizes.frame
    steps = {
        "record": ["record.py", "--task", task, "--episodes", sizes.demonstrations, "--noise", 0.05,
                   "--workers", sizes.processes, "--out", data, "--height", height, "--width", width],
        "train": ["train.py", "--data", data, "--out", run, "--device", device, "--wandb", "disabled", "--resume",
                  *sizes.train_flags.split(), *train.split()],
        "rollout": ["rollout.py", "--checkpoint", run, "--episodes", rollouts, "--num-envs", sizes.processes,
                    "--horizon", sizes.horizon, "--device", device, "--json", told, *rollout.split()],
    }  # fmt: skip
    figures: dict[str, Any] = {}
    for step, (script, *flags) in steps.items():
        start = time.perf_counter()
        subprocess.run([sys.executable, SCRIPTS / script, *map(str, flags)], check=True)
        figures[f"{step}_s"] = time.perf_counter() - start
        figures[f"{step}_command"] = " ".join(map(str, [script, *flags]))
    figures |= read_results(told)["summary"]
    rates = [record["train/samples_per_s"] for record in RunFolder(run).history() if "train/samples_per_s" in record]
    figures["samples_per_s"] = float(np.median(rates))
    return figures


def table_part(folder: Path, device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """The paper's table, row by row as far as the time goes; the same call goes on with the rows that are missing."""
    began, longest, runs = time.perf_counter(), 0.0, []
    for i, row in enumerate(TABLE):
        kept = folder / f"table_{i}.json"
        start = time.perf_counter()
        if not kept.exists():
            if runs and start - began + longest > sizes.table_s:
                print(f"  no time for {row.name}: the same call goes on with it", flush=True)
                break
            print(f"  {row.name} …", flush=True)
            names, flags = (row.task, row.run, f"table_{i}_rollouts.json"), (row.train, row.rollout)
            figures = whole_line(folder, device, sizes, *names, sizes.table_rollouts, *flags)
            write_atomically(kept, json.dumps(figures, indent=2).encode())
            longest = max(longest, time.perf_counter() - start)
        figures = json.loads(kept.read_text())
        low, high = figures["success_interval"]
        rates = {"strict": figures["success_rate"], "low": low, "high": high}
        rates |= {"published": figures["success_rate_published"], "jerk": figures["mean_jerk"]}
        runs.append({"mode": row.name, "command": f"{figures['train_command']}; {figures['rollout_command']}", **rates})
    return {"runs": runs}
