"""The tables of the ACT paper: both of its tasks, scripted and human-like demonstrations, and its ablations.

Zhao et al. 2023, section VI. On a GPU, with the published settings:

    python scripts/experiment.py paper --train="--preset paper" --record="--height 480 --width 640" --seeds 3
"""

from scripts.experiments import RECORD, Cell, Experiment
from scripts.report import each_training, horizon, jerk, minutes, published, strict

HUMAN = "--demonstrator mixed"
SETTINGS = {  # name → flags of train.py, flags of rollout.py
    "default": ("", ""),
    "CVAE": ("--policy act", ""),
    "chunks of 1": ("--chunk-size 1", "--n-action-steps 1"),
    "chunks of 10": ("--chunk-size 10", "--n-action-steps 10"),
    "chunks of 100": ("--chunk-size 100", "--n-action-steps 100"),
    "without temporal ensembling": ("", "--n-action-steps 50"),
}


def cell(task: str, demonstrations: str, setting: str) -> Cell:
    train, rollout = SETTINGS[setting]
    record = RECORD if demonstrations == "scripted" else HUMAN
    labels = {"task": task, "demonstrations": demonstrations, "setting": setting}
    return Cell(labels, {f"{task}_{demonstrations}": f"--task {task} {record}"}, train, {"": rollout})


EXPERIMENT = Experiment(
    cells=[
        *(cell(task, who, "default") for task in ("transfer_cube", "insertion") for who in ("scripted", "human-like")),
        *(cell("transfer_cube", "scripted", setting) for setting in list(SETTINGS)[1:]),
    ],
    columns=[strict(), each_training(), published(), jerk(), horizon(), minutes("train.py")],
)
