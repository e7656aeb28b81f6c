"""The whole line on every task: record the expert, train, roll out; success, and minutes of each script."""

from envs import TASKS
from scripts.experiments import RECORD, Cell, Experiment
from scripts.report import each_training, horizon, inference, minutes, published, strict, throughput

AMOUNTS = {"50": list(TASKS), "200": ["transfer_cube", "hand_over", "give_cube", "stack"]}

EXPERIMENT = Experiment(
    cells=[
        Cell(
            {"task": task, "demonstrations": amount},
            {f"{task}_{amount}": f"--task {task} --episodes {amount} {RECORD}"},
        )
        for amount, tasks in AMOUNTS.items()
        for task in tasks
    ],
    columns=[
        *(strict(), each_training(), published(), horizon()),
        *(minutes("record.py"), minutes("train.py"), minutes("rollout.py"), throughput(), inference()),
    ],
)
