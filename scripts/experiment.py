"""Run an experiment: record, train and roll out every cell of a grid; write one table with intervals.

    python scripts/experiment.py study --fast --only transfer_cube plain     # a minute: shows that everything works
    python scripts/experiment.py study --only transfer_cube plain mixed      # half an hour on two cores
    python scripts/experiment.py policies --seeds 1                          # hours on two cores
    torchrun --nproc-per-node 2 scripts/experiment.py language               # two processes share the cells

It runs record.py, train.py and rollout.py and prints their command lines. If it is interrupted, the same command
continues; with more --seeds or other --only it adds to the table. The output folder holds table.md and
experiment.json (all numbers, also per training), rewritten after every policy, and in the end plot.png. The
experiments:
"""

import scripts.early  # noqa: F401

# isort: split
import ast
import importlib
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from act.errors import ConfigError
from act.run_folder import write_atomically
from demos.folder_lock import LOCK
from envs.results import read_results
from scripts.common import call, run
from scripts.experiments import FAST, Cell, Experiment
from scripts.outputs import check_folder, only_writer
from scripts.report import Row, Run, each_training, plot_rates, table

SCRIPTS = Path(__file__).parent
POLL = 2.0  # s between two looks for what other ranks do
REPORTED = 10  # trainings of a cell that the table includes, if they were done, whatever --seeds is


@dataclass(frozen=True)
class Args:
    """Run an experiment."""

    name: Positional[str]
    """Which one; see the list above."""
    out: Path | None = None
    """Output folder. Default: runs/NAME, with --fast runs/NAME_fast."""
    fast: bool = False
    """Tiny recordings, policies and rollouts, one training of each: shows that everything works."""
    seeds: int | None = None
    """Trainings of each policy, with seeds 0, 1, … Default: those of the experiment."""
    only: tuple[str, ...] = ()
    """Restrict the grid to cells with these labels, for instance: transfer_cube plain mixed."""
    record: str = ""
    """More flags for every call of record.py, for instance --record="--episodes 200"."""
    train: str = ""
    """More flags of train.py, for instance --train="--device cuda --steps 20000"."""
    rollout: str = ""
    """More flags of rollout.py."""


@dataclass(frozen=True)
class Job:
    """One call of a script. Paths in the output folder begin with {out}, so that the folder can be moved."""

    name: str
    script: str
    flags: tuple[str, ...]
    result: str
    """The file or folder that it writes."""

    def words(self, out: object) -> list[str]:
        return [word.replace("{out}", str(out)) for word in self.flags]

    def command(self, out: object) -> str:
        """As a person would type it."""
        return shlex.join(["python", f"scripts/{self.script}", *self.words(out)])

    def path(self, out: Path) -> Path:
        return Path(self.result.replace("{out}", str(out)))


def main(args: Args) -> None:
    experiment = find(args.name)
    out = args.out or Path("runs") / f"{args.name}{'_fast' if args.fast else ''}"
    if args.seeds is not None and args.seeds < 1:
        raise ConfigError(f"--seeds is {args.seeds}; it must be at least 1")
    check_folder("--out", out)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    grid = Grid(experiment, args, out)
    with only_writer(out, "experiment"):
        grid.claim(rank)
        for progress in grid.run(rank, size):
            print(progress, flush=True)
        if rank == 0:
            print(f"\n{grid.report()}\n\ntable: {out / 'table.md'}, plot: {out / 'plot.png'}")


def descriptions() -> dict[str, str]:
    """Name → first line of the docstring, of all experiments. Nothing is imported."""
    texts = {path.stem: path.read_text() for path in sorted((SCRIPTS / "experiments").glob("*.py"))}
    found = {
        name: ast.get_docstring(ast.parse(text)) or "" for name, text in texts.items() if "\nEXPERIMENT = " in text
    }
    return {name: text.partition("\n")[0] for name, text in found.items()}


def find(name: str) -> Experiment:
    """Raises ConfigError if there is no such experiment."""
    if name not in (known := descriptions()):
        raise ConfigError(f"unknown experiment {name!r}; known experiments: {', '.join(known)}")
    return importlib.import_module(f"scripts.experiments.{name}").EXPERIMENT


class Grid:
    """The jobs of an experiment in an output folder. A job is done if jobs/<name>.json is there.

    Args:
        launch: runs a script with these words behind `python`; raises an exception or ends this process if it fails.
    """

    def __init__(
        self, experiment: Experiment, args: Args, out: Path, launch: Callable[[Sequence[str]], object] | None = None
    ):
        self.experiment, self.args, self.out = experiment, args, out
        self.launch = launch or (lambda words: call([sys.executable, *words], env=without_ranks()))
        self.policies: dict[tuple[Any, ...], str] = {}  # a policy is named after the first cell that uses it
        for cell in experiment.cells:
            self.policies.setdefault((tuple(cell.data), cell.train), slug(cell))
        self.recordings: dict[str, Job] = {}
        self.trainings: dict[str, list[Job]] = {}  # of each the call of train.py, then what is measured of the policy
        cells = select(experiment.cells, args.only)
        for seed in range(max(map(self._seeds, cells))):
            for cell in cells:
                if seed < self._seeds(cell):
                    self.recordings |= {job.name: job for job in self.recordings_of(cell)}
                    training, *evaluations = self.jobs_of(cell, seed).values()
                    self.trainings.setdefault(training.name, [training]).extend(evaluations)

    def _seeds(self, cell: Cell) -> int:
        return self.args.seeds or (1 if self.args.fast else cell.seeds or self.experiment.seeds)

    def _flags(self, script: str, *flags: str) -> tuple[str, ...]:
        """Of a call of a script: the experiment's, those given, those of --fast and of the command line."""
        last = FAST[script] if self.args.fast else ""
        return merged(getattr(self.experiment, script), *flags, last, getattr(self.args, script))

    def recordings_of(self, cell: Cell) -> list[Job]:
        jobs = []
        for name, flags in {**cell.data, **cell.held_out}.items():
            words = (*self._flags("record", flags), "--out", f"{{out}}/data/{name}")
            jobs.append(Job(f"data_{name}", "record.py", words, words[-1]))
        return jobs

    def jobs_of(self, cell: Cell, seed: int) -> dict[str, Job]:
        """The training of a cell, "train", and what is measured of its policy: rollouts by their names, "chunks"."""
        policy, which = f"{self.policies[tuple(cell.data), cell.train]}_{seed}", f"{slug(cell)}_{seed}"
        folder = f"{{out}}/policies/{policy}"
        data, held_out = ([f"{{out}}/data/{name}" for name in names] for names in (cell.data, cell.held_out))
        words = (*self._flags("train", cell.train), "--seed", str(seed), "--wandb", "disabled", "--data", *data)
        jobs = {"train": Job(f"policy_{policy}", "train.py", (*words, "--out", folder, "--resume"), folder)}
        for name, flags in cell.rollouts.items():
            file = "_".join(filter(None, ("results", which, slug(name))))
            words = (*self._flags("rollout", flags), "--checkpoint", folder, "--json", f"{{out}}/results/{file}.json")
            jobs[name] = Job(file, "rollout.py", words, words[-1])
        if held_out:
            words = ("--checkpoint", folder, "--data", *data, "--held-out", *held_out)
            words = (*words, "--json", f"{{out}}/results/chunks_{which}.json")
            jobs["chunks"] = Job(f"chunks_{which}", "experiments/chunk_metrics.py", words, words[-1])
        return jobs

    def claim(self, rank: int = 0) -> None:
        """Makes the folder this experiment's; other ranks wait for that.

        Raises:
            ConfigError: it holds something else, or what was done there was done with other flags.
        """
        file = self.out / "experiment.json"
        while rank > 0 and not file.exists():
            time.sleep(POLL)
        found = sorted(path.name for path in self.out.glob("*") if path.name != LOCK) if self.out.is_dir() else []
        if not file.exists() and found:
            raise ConfigError(
                f"{self.out} holds {found[0]} and no experiment; use an empty or another --out (what older versions of "
                "study.py and bench.py left is not continued; scripts/compare.py reads the results of its rollouts)"
            )
        there = read(file)["experiment"] if file.exists() else self.args.name
        if there != self.args.name:
            raise ConfigError(f"{self.out} holds the experiment {there}, not {self.args.name}; use another --out")
        self.rows()
        for job in self.jobs():
            self.record_of(job)
        for folder in ("jobs", "results"):
            (self.out / folder).mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_atomically(file, json.dumps({"experiment": self.args.name, "rows": []}).encode())

    def jobs(self) -> list[Job]:
        """All of them, in the order in which one process does them."""
        return [*self.recordings.values(), *(job for jobs in self.trainings.values() for job in jobs)]

    def record_of(self, job: Job) -> dict[str, Any] | None:
        """What is known of a job that is done: its flags and seconds. Rollouts whose file was deleted are not done.

        Raises:
            ConfigError: it was done with other flags.
        """
        path = self.out / "jobs" / f"{job.name}.json"
        if not path.exists() or (job.result.endswith(".json") and not job.path(self.out).exists()):
            return None
        found = read(path)
        if tuple(found["flags"]) != job.flags:
            before, now = (" ".join(word for word in a if word not in b) for a, b in (
                (found["flags"], job.flags), (job.flags, found["flags"])))  # fmt: skip
            raise ConfigError(
                f"{self.out}: {job.script} made {job.result} with other flags ({before or 'fewer'} there, "
                f"{now or 'fewer'} now); use another --out, or delete {path} and what it made"
            )
        return found

    def run(self, rank: int = 0, size: int = 1) -> Iterator[str]:
        """Does this rank's share of what is not done yet; yields a line about the progress after each job."""
        for job in list(self.recordings.values())[rank::size]:
            yield from self.do(job, size)
        for jobs in list(self.trainings.values())[rank::size]:
            self.wait_for(self.recordings.values())
            for job in jobs:
                yield from self.do(job, size)
            if rank == 0:
                self.report(plot=False)
        if rank == 0:
            self.wait_for(self.jobs())

    def do(self, job: Job, size: int = 1) -> Iterator[str]:
        """Runs a script, unless that was done before."""
        if self.record_of(job):
            return
        resumed = job.script != "rollout.py" and job.path(self.out).exists()
        print(f"\n$ {job.command(self.out)}", flush=True)
        start = time.perf_counter()
        self.launch([str(SCRIPTS / job.script), *job.words(self.out)])
        seconds = None if resumed else time.perf_counter() - start
        done = {"flags": job.flags, "seconds": seconds}
        write_atomically(self.out / "jobs" / f"{job.name}.json", json.dumps(done, indent=2).encode())
        yield self.progress(size)

    def wait_for(self, jobs: Iterable[Job]) -> None:
        """Returns once other ranks have done them, which may take hours: no collective operation waits so long."""
        while not all(self.record_of(job) for job in jobs):
            time.sleep(POLL)

    def progress(self, size: int = 1) -> str:
        """How much is done, and how long the rest takes if each script takes as long as before on average."""
        times: dict[str, list[float]] = {}
        left = []
        for job in self.jobs():
            if (record := self.record_of(job)) is None:
                left.append(job)
            elif record["seconds"] is not None:
                times.setdefault(job.script, []).append(record["seconds"])
        line = f"{len(self.jobs()) - len(left)} of {len(self.jobs())} jobs are done"
        if not left or any(job.script not in times for job in left):
            return line
        hours = sum(sum(times[job.script]) / len(times[job.script]) for job in left) / size / 3600
        return f"{line}; about {f'{hours:.1f} hours' if hours > 1 else f'{60 * hours:.0f} minutes'} are left"

    def rows(self) -> list[Row]:
        """All cells of which at least one training was rolled out, now or before."""
        rows = []
        for cell in self.experiment.cells:
            runs = [self.run_of(cell, seed) for seed in range(max(self._seeds(cell), REPORTED))]
            rows.append(Row(cell.labels, list(filter(None, runs))))
        return [row for row in rows if row.runs]

    def run_of(self, cell: Cell, seed: int) -> Run | None:
        """What is known of one training of a cell; None unless all of its jobs are done."""
        jobs = self.jobs_of(cell, seed)
        every = [*self.recordings_of(cell), *jobs.values()]
        records = [self.record_of(job) for job in every]
        seconds: dict[str, float] = {}
        for job, record in zip(every, records, strict=True):
            if record is None:
                return None
            if record["seconds"] is not None:
                seconds[job.script] = seconds.get(job.script, 0.0) + record["seconds"]
        results = {name: read_results(job.path(self.out)) for name, job in jobs.items() if job.script == "rollout.py"}
        chunks = read(jobs["chunks"].path(self.out)) if "chunks" in jobs else {}
        commands = [job.command("OUT") for job in every]
        return Run(seed, jobs["train"].path(self.out), results, chunks, seconds, commands)

    def report(self, plot: bool = True) -> str:
        """Writes table.md, experiment.json and plot.png of what is done so far; returns the table."""
        rows, columns = self.rows(), self.experiment.columns
        if not rows:
            return "no cell is finished yet"
        text = table(rows, columns)
        commands = dict.fromkeys(command for row in rows for run in row.runs for command in run.commands)
        page = [text, "The commands, with OUT for the output folder:", "\n".join(["```", *commands, "```\n"])]
        write_atomically(self.out / "table.md", "\n\n".join(page).encode())
        values = [
            {"labels": dict(row.labels), "values": {column.head: column.value(row) for column in columns}}
            | {"trainings": [{"seed": run.seed, "seconds": run.seconds, "commands": run.commands} for run in row.runs]}
            for row in rows
        ]
        numbers = {"experiment": self.args.name, "settings": asdict(self.args), "rows": values}
        write_atomically(self.out / "experiment.json", json.dumps(numbers, indent=2, default=str).encode())
        if not plot:
            return text
        drawn = [column for column in columns if column.in_plot]
        names = {", ".join(row.labels.values()): row for row in rows}
        rates = {
            name: {each.head: value for each in drawn if (value := each.value(row))} for name, row in names.items()
        }
        dots = {name: each_training().value(row) for name, row in names.items()}
        plot_rates(rates, self.out / "plot.png", dots)
        return text


def select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """Cells whose labels are among `only`, for every label of which a value is named there.

    Raises:
        ConfigError: no cell has such a label, or none has all of them.
    """
    known = list(dict.fromkeys(value for cell in cells for value in cell.labels.values()))
    if unknown := [word for word in only if word not in known]:
        raise ConfigError(f"--only {unknown[0]!r} is no label; known labels: {', '.join(known)}")
    heads = {head for cell in cells for head, value in cell.labels.items() if value in only}
    chosen = [cell for cell in cells if all(cell.labels.get(head) in only for head in heads)]
    if not chosen:
        raise ConfigError(f"no cell has all of the labels {' '.join(only)}; leave one out")
    return chosen


def merged(*flags: str) -> tuple[str, ...]:
    """Flags of a command line, one after the other; of a flag that is given several times, the last one."""
    found: dict[str, list[str]] = {}
    last: list[str] = []
    for word in shlex.split(" ".join(flags)):
        if word.startswith("--"):
            found.pop(word, None)
            found[word] = last = []
        elif not found:
            raise ConfigError(f"{word!r} is no flag; flags begin with --")
        else:
            last.append(word)
    return tuple(word for flag, values in found.items() for word in (flag, *values))


def read(path: Path) -> dict[str, Any]:
    """Raises ConfigError if the file is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ConfigError(f"{path} is damaged; delete it, and what it describes is done again") from None


def slug(name: Cell | str) -> str:
    """A file name of a cell or of a text."""
    text = "_".join(name.labels.values()) if isinstance(name, Cell) else name
    return re.sub(r"[^\w.-]+", "_", text)


def without_ranks() -> Mapping[str, str]:
    """The environment without what torchrun sets: scripts that are started here do their work alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in names and "TORCHELASTIC" not in name}


def parse(argv: list[str]) -> Args:
    """The command line; --help lists the experiments."""
    listed = "\n".join(f"    {name:<12} {text}" for name, text in descriptions().items())
    return tyro.cli(Args, args=argv, description=f"{__doc__}\n{listed}")


if __name__ == "__main__":
    run(main, parse)
