"""One policy that is told in words which of all tasks to do, beside a policy for each.

What is in the folder already is not made again. Started by torchrun, each process makes its share.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from act.language import InstructionEncoder
from act.presets import TOLD
from demos.phrases import SEEN, UNSEEN, phrasings, sample_phrasings
from envs import TASKS
from envs.results import read_results, wilson_interval
from scripts.benchmarks.families import await_files, call, speed, stability
from scripts.benchmarks.family_page import span, word
from scripts.common import markdown

NONSENSE = "the moon eats seven quiet umbrellas"
FOLLOWED = "instruction_followed"  # the share of a summary
CODED = "give_cube"  # the task of the CVAEs that are told and not: with most ways
CODE = "--use-vae --prior learned --kl-weight 0.05 --free-nats 1 --no-keyframe-token --place-weight 0"
CODE += "".join(f" --{name.replace('_', '-')} {TOLD['cpu'][name]}" for name in ("batch_size", "lr"))  # told or not
CODES = ("code_told", "code_untold")


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    demonstrations: int = 50
    rollouts: int = 100
    swapped: int = 25
    """Seeds on which every way of a task is asked for, and on which words are said that are none of its own."""
    steps: int = 1_500
    """Of training, for each task."""
    seeds: int = 2
    """Trainings of the policy of all tasks."""
    demonstrator: str = "--noise 0.05"
    """Flags of record.py that say who demonstrates."""
    record: str = ""
    train: str = ""
    words: str = "--text-encoder minilm"
    speed_steps: int = 60


FULL = Amounts()
FAST = Amounts(rollouts=50, swapped=20, steps=500, seeds=1)
TINY = Amounts(
    demonstrations=2,
    rollouts=2,
    swapped=1,
    steps=1,
    seeds=1,
    record="--height 48 --width 64",
    train="--d-model 32 --n-heads 2 --ffn-dim 64 --chunk-size 10",
    speed_steps=2,
)


def compare_told(
    folder: Path, amounts: Amounts, rank: int = 0, size: int = 1, wait: Callable[[], object] = lambda: None
) -> str:
    """Makes what is not there yet, and the tables, which are returned, of what is."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in list(TASKS)[rank::size]:
        flags = f"--task {task} --episodes {amounts.demonstrations} {amounts.demonstrator} {amounts.record}"
        call("record.py", flags, out=folder / "data" / task)
    wait()
    together = [("together", seed) for seed in range(amounts.seeds)]
    jobs = [*together, *((task, 0) for task in TASKS), *((name, 0) for name in CODES)]
    made = []
    for number, (name, seed) in enumerate(jobs):
        mine = number % size == rank
        if mine:
            train(folder, amounts, name, seed)
        for task in tasks_of(name):
            for kind, flags in rollouts_of(name, task, amounts).items():
                made.append(folder / "rollouts" / f"{name}_{seed}_{task}_{kind}.json")
                if mine:
                    roll_out(made[-1], folder / "policies" / f"{name}_{seed}", task, flags)
    if rank > 0:
        return ""
    await_files(made)
    for name in CODES:
        speed(folder / "policies" / f"{name}_0", folder / "speed" / f"{name}.json", amounts.speed_steps)
    cosines(folder / "cosines.png")
    return write(folder, amounts.seeds)


def tasks_of(name: str) -> list[str]:
    """What a policy learns."""
    return list(TASKS) if name == "together" else [CODED] if name in CODES else [name]


def train(folder: Path, amounts: Amounts, name: str, seed: int) -> None:
    """The policy of one task, of all of them with as many samples of each, or a CVAE that is told or not."""
    tasks = tasks_of(name)
    data = ["--data", *(folder / "data" / task for task in tasks)]
    words = "" if name == "code_untold" else amounts.words
    flags = f"{amounts.train} {words} {CODE if name in CODES else ''}"
    flags += f" --steps {amounts.steps * len(tasks)} --seed {seed} --wandb disabled --resume"
    call("train.py", flags, *data, out=folder / "policies" / f"{name}_{seed}")


def rollouts_of(name: str, task: str, amounts: Amounts) -> dict[str, list[object]]:
    """Kind of words → flags of rollout.py, for a policy and one of its tasks."""
    episodes: list[object] = ["--episodes", amounts.rollouts]
    fewer: list[object] = ["--episodes", amounts.swapped]
    kinds = {"seen": [*episodes, "--sample", "episode"] if name in CODES else episodes}
    if name != "together":
        return kinds
    tasks = list(TASKS)
    other = TASKS[tasks[(tasks.index(task) + 1) % len(tasks)]]
    kinds |= {"unseen": [*episodes, "--instructions", "unseen"], "none": [*fewer, "--instructions", "none"]}
    said = {"nonsense": NONSENSE, "empty": "", "other": phrasings(other, next(iter(SEEN[other])))[0]}
    kinds |= {name: [*fewer, "--instruction", words] for name, words in said.items()}
    ways = [way for way in SEEN[TASKS[task]] if way]
    return kinds | {f"way_{way}": [*fewer, "--variant", way] for way in ways}


def roll_out(out: Path, policy: Path, task: str, flags: list[object]) -> None:
    if not out.exists():
        out.parent.mkdir(exist_ok=True)
        partial = out.with_suffix(".partial")
        call("rollout.py", f"--task {task}", *flags, checkpoint=policy, json=partial)
        partial.rename(out)


def write(folder: Path, seeds: int) -> str:
    """The tables (told.md, also returned) of the rollouts that are there."""

    def found(name: str, task: str, kind: str, trainings: int = seeds) -> list[dict[str, Any]]:
        paths = [folder / "rollouts" / f"{name}_{seed}_{task}_{kind}.json" for seed in range(trainings)]
        return [read_results(path)["summary"] for path in paths if path.exists()]

    lines = [["task", "alone", "as asked", "together", "95 %", "each training", "as asked"]]
    lines[0] += ["unseen phrasings", "as asked", "no words", "nonsense", "empty", "another task's words"]
    for task in TASKS:
        together, alone = found("together", task, "seen"), found(task, task, "seen", 1)
        if not together:
            continue
        n = sum(each["episodes"] for each in together)
        strict = sum(each["success_rate"] * each["episodes"] for each in together)
        others = {kind: found("together", task, kind) for kind in ("unseen", "none", "nonsense", "empty", "other")}
        line = [task, rate(alone), rate(alone, FOLLOWED), rate(together), span(wilson_interval(round(strict), n))]
        line += [", ".join(f"{100 * each['success_rate']:.0f}" for each in together), rate(together, FOLLOWED)]
        line += [rate(others["unseen"]), rate(others["unseen"], FOLLOWED)]
        lines.append([*line, *(rate(others[kind]) for kind in ("none", "nonsense", "empty", "other"))])
    swapped = [["task", "asked for", "as asked", "successes in each way"]]
    for task, env_id in TASKS.items():
        for way in SEEN[env_id]:
            if way and (some := found("together", task, f"way_{way}")):
                took: dict[str, int] = {}
                for each in some:
                    for name, count in each.get("variants", {}).items():
                        took[name] = took.get(name, 0) + count
                ways = ", ".join(f"{name} {count}" for name, count in took.items())
                swapped.append([task, way, rate(some, FOLLOWED), ways])
    text = f"{markdown(lines)}\n\nThe same scenes, other words:\n\n{markdown(swapped)}"
    text += f"\n\nA CVAE of {CODED}, told and not:\n\n{markdown(codes(folder))}"
    (folder / "told.md").write_text(text + "\n")
    return text


def codes(folder: Path) -> list[list[str]]:
    """What z tells of a chunk where words tell something too, and what listening costs."""
    lines = [["", "strict", "as asked", "KL (nats)", "active units", "L1, z from the chunk", "L1, the prior's mean"]]
    lines[0] += ["training (samples/s)", "an answer (ms)"]
    for name in CODES:
        cost = folder / "speed" / f"{name}.json"
        if cost.exists():
            took, last = json.loads(cost.read_text()), stability(folder / "policies" / f"{name}_0")["last"]
            names = ("val/kl", "val/diagnostics/active_units", "val/l1", "val/diagnostics/l1_z0")
            rollouts = [read_results(folder / "rollouts" / f"{name}_0_{CODED}_seen.json")["summary"]]
            line = [
                name.removeprefix("code_"),
                rate(rollouts),
                rate(rollouts, FOLLOWED),
                *(word(last.get(each), 3) for each in names),
            ]
            lines.append([*line, f"{1e3 / took['training_ms_per_sample']:.0f}", word(took["latency_ms_1"])])
    return lines


def rate(summaries: list[dict[str, Any]], what: str = "success_rate") -> str:
    """Mean share over rollouts of as many episodes each."""
    values = [each[what] for each in summaries if what in each]
    return f"{100 * float(np.mean(values)):.0f} %" if values else "–"


def cosines(path: Path, encoder: str = "minilm", dim: int = 384) -> None:
    """A picture of how similar phrasings are, as the encoder embeds them and as policies are told them: the mean cosine
    of those of every two tasks and ways, and of one and its paraphrases."""
    ways = [(task, env_id, way) for task, env_id in TASKS.items() for way in SEEN[env_id]]
    names = [f"{task} {way}".strip().replace("_", " ") for task, _, way in ways]
    embedded, fitted = InstructionEncoder(encoder, dim), InstructionEncoder(encoder, dim)
    fitted.fit([sample_phrasings(env_id, way, seed) for _, env_id, way in ways for seed in range(10)])
    figure = Figure(figsize=(11, 11), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for row, embed, which in zip(panels, (embedded, fitted), ("embedded", "as they are told"), strict=True):
        seen, unseen = (
            [unit(embed(texts(env_id, way)).numpy()) for _, env_id, way in ways]
            for texts in (phrasings, lambda env_id, way: UNSEEN[env_id][way])
        )
        for axes, others, title in zip(row, (seen, unseen), ("phrasings", "paraphrases"), strict=True):
            table = np.array([[float((a @ b.T).mean()) for b in others] for a in seen])
            picture = axes.imshow(table, vmin=-0.5, vmax=1, cmap="viridis")
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_title(f"{which}: phrasings (rows) and {title} (columns), mean cosine", fontsize=7)
            for i, values in enumerate(table):
                for j, value in enumerate(values):
                    axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=5, color="white")
    figure.colorbar(picture, ax=panels, shrink=0.5)
    figure.savefig(path, dpi=130)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
