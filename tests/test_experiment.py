"""Laws of experiments: numbers are those of the seeds, what is done is not done again, and every command is valid."""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import tyro
from command import forked, script

import scripts.experiment
import scripts.record
import scripts.rollout
import scripts.train
from act.errors import ConfigError
from envs.results import EpisodeResult, summarize, wilson_interval
from scripts.experiment import Args, Grid, descriptions, find, main, merged, parse
from scripts.experiments import Cell, Experiment, chunk_metrics
from scripts.report import each_training, followed, minutes, published, several_variants, strict, variants

PARSERS = {
    "record.py": lambda words: tyro.cli(scripts.record.Args, args=words),
    "train.py": scripts.train.parse,
    "rollout.py": lambda words: tyro.cli(scripts.rollout.Args, args=words),
    "experiments/chunk_metrics.py": lambda words: tyro.cli(chunk_metrics.Args, args=words),
}
"""Script → parser of its command line."""
COLUMNS = [
    strict(),
    each_training(),
    published(),
    followed("asked"),
    variants(),
    several_variants("asked"),
    minutes("train.py"),
]


def cell(task: str, train: str, **settings) -> Cell:
    labels = {"task": task, "recipe": train or "as it is"}
    return Cell(labels, {task: f"--task {task}"}, train, {"": "", "asked": "--seed 7"}, **settings)


EXPERIMENT = Experiment([cell("stack", ""), cell("stack", "--lr 0.1"), cell("tip", "", seeds=1)], COLUMNS, seeds=2)


class Scripts:
    """In place of the scripts: writes what they would write, and counts calls."""

    def __init__(self, fails_at: int = -1):
        self.calls: list[list[str]] = []
        self.fails_at = fails_at

    def __call__(self, words: Sequence[str]) -> None:
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(list(words))
        given = dict(pairwise(words))
        if "--json" not in given:
            Path(given["--out"]).mkdir(parents=True)
            return
        seed = int(given["--checkpoint"][-1])
        asked = {
            "variant": "left" if given.get("--seed") == "7" else "",
            "draws": 2 if given.get("--seed") == "7" else 1,
        }
        # Training 0 succeeds in 3 of 4 episodes, training 1 in 1 of 4; the right variant in the last success.
        results = [
            EpisodeResult(i // asked["draws"], i < (1 if seed else 3), i < 4, 4, 9, 8, 1.0, way, asked["variant"])
            for i, way in enumerate(["left", "right", "right", ""] if not seed else ["left", "", "", ""])
        ]
        found = {"settings": {"horizon": 9}, "summary": summarize(results) | {"inference_ms": None}}
        text = json.dumps(found | {"episodes": [vars(each) for each in results]})
        Path(given["--json"]).write_text(text)


def grid(out: Path, launch: Scripts, experiment: Experiment = EXPERIMENT, **settings) -> Grid:
    made = Grid(experiment, Args("here", **settings), out, launch)
    made.claim()
    return made


def test_the_table_holds_the_numbers_of_the_seeds(tmp_path):
    made = grid(tmp_path / "out", Scripts())
    assert list(made.run())[-1].startswith("17 of 17 jobs are done")
    lines = [[each.strip() for each in line.split("|")[1:-1]] for line in made.report().splitlines()]
    low, high = (round(100 * end) for end in wilson_interval(4, 8))
    assert lines[2][:5] == ["stack", "as it is", f"50.0 % ({low} to {high})", "75, 25", "100.0 % (68 to 100)"]
    assert lines[3][:4] == ["stack", "--lr 0.1", *lines[2][2:4]]
    assert lines[4][3] == "75", "one training of this cell"
    low, high = (round(100 * end) for end in wilson_interval(2, 8))
    assert lines[2][5] == f"25.0 % ({low} to {high})", "the left variant in one success of each training"
    assert lines[2][6] == "left 25 %, right 25 %"
    assert lines[2][7] == "1 of 4", "two samples of the first state of training 0 succeeded in two variants"
    stored = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert stored["rows"][0]["values"][strict().head]["rate"] == 0.5
    assert [each["seed"] for each in stored["rows"][0]["trainings"]] == [0, 1]
    assert (tmp_path / "out" / "plot.png").read_bytes()[:4] == b"\x89PNG"
    commands = re.findall(r"^python scripts/(\w+)\.py", (tmp_path / "out" / "table.md").read_text(), re.MULTILINE)
    assert {name: commands.count(name) for name in commands} == {"record": 2, "train": 5, "rollout": 10}


@pytest.mark.parametrize("fails_at", [0, 1, 3, 8, 16])
def test_an_interrupted_experiment_does_only_what_is_left(tmp_path, fails_at, monkeypatch):
    monkeypatch.setattr(scripts.experiment, "plot_rates", lambda *_: None)
    first, second = Scripts(fails_at), Scripts()
    with pytest.raises(KeyboardInterrupt):
        list(grid(tmp_path / "out", first).run())
    resumed = grid(tmp_path / "out", second)
    list(resumed.run())
    assert len(first.calls) == fails_at
    whole = Scripts()
    list(grid(tmp_path / "whole", whole).run())
    names = [word for words in (*first.calls, *second.calls) for word in words]
    assert names == [
        word.replace(str(tmp_path / "whole"), str(tmp_path / "out")) for words in whole.calls for word in words
    ]
    text = resumed.report()
    list(grid(tmp_path / "out", third := Scripts()).run())
    assert (third.calls, text.splitlines()[2].split("|")[3].split()[0]) == ([], "50.0")


def test_ranks_share_the_jobs_and_do_each_once(tmp_path):
    calls = []
    for rank in (1, 0):
        launch = Scripts()
        made = grid(tmp_path / "out", launch)
        made.wait_for = lambda jobs: None  # they run one after the other here
        list(made.run(rank, 2))
        calls.append(["/".join(Path(words[-1]).parts[-2:]) for words in launch.calls if "--json" in words])
    alone = Scripts()
    list(grid(tmp_path / "alone", alone).run())
    both = ["/".join(Path(words[-1]).parts[-2:]) for words in alone.calls if "--json" in words]
    assert sorted(calls[0] + calls[1]) == sorted(both)
    assert min(map(len, calls)) == 4


def test_more_seeds_and_other_cells_add_to_the_table(tmp_path):
    grid_of = lambda launch, **settings: grid(tmp_path / "out", launch, **settings)  # noqa: E731
    list(grid_of(first := Scripts(), only=("stack", "as it is"), seeds=1).run())
    assert len(first.calls) == 4
    both = grid_of(more := Scripts(), only=("stack",))
    list(both.run())
    assert len(more.calls) == 9
    list(grid_of(other := Scripts(), only=("tip",)).run())
    assert len(other.calls) == 4
    labels = [" ".join(row.labels.values()) for row in both.rows()]
    assert labels == ["stack as it is", "stack --lr 0.1", "tip as it is"]
    assert [len(row.runs) for row in both.rows()] == [2, 2, 1]


def test_cells_with_the_same_recipe_share_the_policy(tmp_path):
    shared = [cell("tip", ""), Cell({"task": "tip", "recipe": "again"}, {"tip": "--task tip"}, "", {"": "--horizon 5"})]
    list(grid(tmp_path / "out", launch := Scripts(), Experiment(shared, COLUMNS)).run())
    scripts_run = [Path(words[0]).stem for words in launch.calls]
    assert scripts_run == ["record", "train", "rollout", "rollout", "rollout"]


def test_the_time_that_is_left_follows_from_what_was_done(tmp_path):
    made = grid(tmp_path / "out", Scripts(fails_at=5))
    with pytest.raises(KeyboardInterrupt):
        list(made.run())
    for path in (tmp_path / "out" / "jobs").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 600.0}))
    assert made.progress() == "5 of 17 jobs are done; about 2.0 hours are left"
    assert made.progress(4) == "5 of 17 jobs are done; about 30 minutes are left"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "old" / "figures").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"old holds figures and no experiment.*older versions"):
        grid(tmp_path / "old", Scripts())
    list(grid(tmp_path / "out", Scripts(), only=("tip",)).run())
    with pytest.raises(ConfigError, match=r"holds the experiment here, not there"):
        Grid(EXPERIMENT, Args("there"), tmp_path / "out", Scripts()).claim()
    with pytest.raises(ConfigError, match=r"train\.py .*other flags \(fewer there, --steps 9 now\)"):
        grid(tmp_path / "out", Scripts(), only=("tip",), train="--steps 9")


def test_deleted_rollouts_are_repeated_and_damaged_records_are_named(tmp_path):
    list(grid(tmp_path / "out", Scripts(), only=("tip",)).run())
    (tmp_path / "out" / "results" / "results_tip_as_it_is_0_asked.json").unlink()
    list(grid(tmp_path / "out", again := Scripts(), only=("tip",)).run())
    assert [Path(words[0]).stem for words in again.calls] == ["rollout"]
    (tmp_path / "out" / "jobs" / "data_tip.json").write_text("{")
    with pytest.raises(ConfigError, match=r"data_tip\.json is damaged"):
        grid(tmp_path / "out", Scripts(), only=("tip",))


def test_what_does_not_exist_is_named():
    for wrong, words in (
        (lambda: find("studies"), ("'studies'", "study", "policies")),
        (lambda: Grid(EXPERIMENT, Args("here", only=("pour",)), Path("out")), ("'pour'", "stack", "tip")),
        (lambda: Grid(EXPERIMENT, Args("here", only=("tip", "--lr 0.1")), Path("out")), ("tip --lr 0.1",)),
        (lambda: main(Args("study", seeds=0)), ("--seeds is 0",)),
    ):
        with pytest.raises(ConfigError) as error:
            wrong()
        assert all(word in str(error.value) for word in words), error.value


def test_later_flags_override_earlier_ones():
    assert merged("--steps 9 --no-x --data a b", "", "--data c --steps 2") == ("--no-x", "--data", "c", "--steps", "2")
    assert merged("--instruction ''") == ("--instruction", "")
    assert merged("--data a a") == ("--data", "a", "a")
    with pytest.raises(ConfigError, match="'steps' is no flag"):
        merged("", "steps 9")


@pytest.mark.parametrize("name", descriptions())
def test_every_command_of_an_experiment_is_valid(name, tmp_path):
    """Of jobs that differ in values alone, one is parsed."""
    experiment, checked = find(name), set()
    grids = [Grid(experiment, Args(name, fast=fast), tmp_path) for fast in (False, True)]
    for job in [job for grid in grids for job in grid.jobs()]:
        names = frozenset(word for word in job.flags if word.startswith("--"))
        kind = (job.script, names, *(job.flags[job.flags.index("--policy") + 1 :][:1] if "--policy" in names else ()))
        if kind not in checked:
            checked.add(kind)
            PARSERS[job.script](job.words("here"))
    assert {script for script, *_ in checked} >= {"record.py", "train.py", "rollout.py"}
    assert len({tuple(cell.labels.values()) for cell in experiment.cells}) == len(experiment.cells)


def test_help_lists_the_experiments_with_a_sentence_each(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = capsys.readouterr().out
    for name, text in descriptions().items():
        assert name in shown
        assert " ".join(text.split()[:5]) in shown


@pytest.mark.slow
def test_a_fast_experiment_runs_end_to_end(tmp_path):
    def launch(words: Sequence[str]) -> None:
        done = forked(words[0], *words[1:], folder=tmp_path)
        assert done.returncode == 0, done.stderr

    args = parse(["study", "--fast", "--only", "transfer_cube", "plain"])
    made = Grid(find("study"), args, tmp_path / "out", launch)
    made.claim()
    assert [line.split()[0] for line in made.run()] == ["1", "2", "3"]
    [row] = made.rows()
    assert [each["seed"] for each in row.episodes()] == [100_000, 100_001]
    assert "0.0 % (0 to 66)" in made.report()


def test_the_script_refuses_a_second_one_in_its_folder_and_prints_one_line(tmp_path):
    wrong = script("experiment.py", "studies", folder=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "'studies'" in wrong.stderr
