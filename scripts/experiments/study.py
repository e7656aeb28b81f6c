"""One recipe on several kinds of demonstrations: the expert, other demonstrators, and single traits of theirs."""

from demos.demonstrators import DEMONSTRATORS
from demos.traits import TRAITS
from scripts.experiments import RECORD, Cell, Experiment
from scripts.report import each_training, horizon, minutes, published, strict

TASKS = ("transfer_cube", "insertion")
KINDS = {name: f"--demonstrator {name}" for name in DEMONSTRATORS} | {"expert": RECORD}
KINDS |= {trait: f"--traits {trait}" for trait in TRAITS}  # of the demonstrator plain

EXPERIMENT = Experiment(
    cells=[
        Cell({"demonstrations": kind, "task": task}, {f"{task}_{kind}": f"--task {task} {flags}"})
        for task in TASKS
        for kind, flags in KINDS.items()
    ],
    columns=[strict(), each_training(), published(), horizon(), minutes("train.py")],
)
