"""The eight policies compared on the same demonstrations: two tasks, with two variants and with one.

Rollouts: temporal ensembling with ten queries a chunk, the default; half of each chunk, then a query; and four initial
states that are each rolled out with eight noise samples.
"""

from scripts.experiments import RECORD, Cell, Experiment
from scripts.report import (
    Column,
    chunks,
    each_training,
    inference,
    jerk,
    logged,
    several_variants,
    strict,
    throughput,
    variants,
)

GENERATORS = ("regression", "autoencoder", "act", "gan", "autoregressive", "flow", "flow-matching", "diffusion")
CVAE = "--policy act --prior learned --kl-weight 0.05 --free-nats 1"
TASKS = {  # name → flags of record.py, flags of train.py, trainings
    # Which arm gives is what the policies decide here: no keyframe predicts it beforehand.
    "hand_over": (f"--task hand_over {RECORD}", "--no-keyframe-token --ee-position-weight 0", 3),
    "transfer_cube": ("--task transfer_cube --demonstrator plain", "", 1),
}


def cell(policy: str, task: str) -> Cell:
    record, train, seeds = TASKS[task]
    sample = "" if policy == "regression" else "--sample episode"
    rollouts = {"": sample, "half": f"{sample} --n-action-steps 25"}
    if sample:
        rollouts["states"] = f"{sample} --episodes 4 --samples-per-seed 8"
    return Cell(
        {"policy": policy, "task": task},
        {task: record},
        f"--policy {policy} {CVAE if policy == 'act' else ''} {train}",
        rollouts,
        seeds,
        {f"{task}_held_out": f"{record} --episodes 16 --seed 40000"},
    )


COLUMNS: list[Column] = [
    *(strict(), each_training(), variants(), several_variants("states")),
    strict("half", "half of each chunk (95 % interval)"),
    *(jerk(), jerk("half", "jerk, half of each chunk")),
    chunks("first_nearest_cm", "first chunk: cm to the nearest demonstrated"),
    chunks("first_spread_cm", "cm between two samples"),
    chunks("later_nearest_cm", "later chunks: cm to the nearest"),
    chunks("held_out_nearest_cm", "held-out demonstrations: cm to the nearest"),
    chunks("nats", "log-likelihood (nats per number)"),
    logged("val/predict_l1", "validation L1 (z)"),
    *(throughput(), inference()),
]
EXPERIMENT = Experiment([cell(policy, task) for task in TASKS for policy in GENERATORS], COLUMNS)
