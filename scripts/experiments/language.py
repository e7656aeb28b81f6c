"""One policy that is told in words which of all tasks to do, beside a policy for each task."""

from demos.phrases import SEEN, phrasings
from envs import TASKS
from scripts.experiments import RECORD, Cell, Experiment
from scripts.report import each_training, followed, minutes, strict

STEPS = 1_500  # of training, for each task
DEMONSTRATORS = {"expert": RECORD, "plain": "--demonstrator plain"}
NONSENSE = "'the moon eats seven quiet umbrellas'"
FEWER = "--episodes 25"


def rollouts(task: str) -> dict[str, str]:
    """Name → flags of rollout.py: phrasings that were trained with, others, and words that do not fit."""
    names = list(TASKS)
    other = TASKS[names[(names.index(task) + 1) % len(names)]]
    words = {"nonsense": NONSENSE, "empty": "''", "other task": f'"{phrasings(other, next(iter(SEEN[other])))[0]}"'}
    kinds = {"": "", "unseen": "--instructions unseen", "none": f"--instructions none {FEWER}"}
    kinds |= {name: f"--instruction {text} {FEWER}" for name, text in words.items()}
    kinds |= {f"variant {name}": f"--variant {name} {FEWER}" for name in SEEN[TASKS[task]] if name}
    return {name: f"--task {task} {flags}" for name, flags in kinds.items()}


def cells(who: str) -> list[Cell]:
    data = {task: {f"{task}_{who}": f"--task {task} {DEMONSTRATORS[who]}"} for task in TASKS}
    everything = {name: flags for each in data.values() for name, flags in each.items()}
    words = "--text-encoder minilm --steps"
    labels = {task: {"task": task, "demonstrations": who} for task in TASKS}
    together = [
        Cell(labels[task] | {"policy": "of all tasks"}, everything, f"{words} {STEPS * len(TASKS)}", rollouts(task), 2)
        for task in TASKS
    ]
    alone = [
        Cell(labels[task] | {"policy": "of this task"}, data[task], f"{words} {STEPS}", {"": f"--task {task}"})
        for task in TASKS
    ]
    return together + alone


EXPERIMENT = Experiment(
    cells=[cell for who in DEMONSTRATORS for cell in cells(who)],
    columns=[
        *(strict(), each_training(), followed()),
        *(followed("unseen", "unseen phrasings: followed"), strict("none", "no words"), strict("nonsense", "nonsense")),
        *(strict("empty", "empty words"), strict("other task", "words of another task"), minutes("train.py")),
        *(
            followed(f"variant {name}", f"asked for {name}")
            for name in dict.fromkeys(n for v in SEEN.values() for n in v)
            if name
        ),
    ],
)
