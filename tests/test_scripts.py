"""The whole line, tiny, through the real scripts; and what a person sees after a mistake."""

import json
from pathlib import Path

import pytest
from command import forked, script
from messages import says

from envs.results import EpisodeResult, summarize

TINY = ["--chunk-size", "20", "--d-model", "16", "--n-heads", "2", "--ffn-dim", "32", "--n-style-layers", "1"]
TINY += ["--n-encoder-layers", "1", "--n-decoder-layers", "1", "--steps", "6"]
TINY += ["--batch-size", "4", "--val-every", "3", "--val-starts", "8", "--save-every", "3"]
TINY += ["--log-every", "2", "--warmup-steps", "2"]


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Record, look, replay, train with rollouts, and roll out: the folder, and what each script printed."""
    folder = tmp_path_factory.mktemp("line")
    size = ["--height", 24, "--width", 32]
    data = ["--data", "data", "--out", "run", "--preset", "cpu"]
    commands = {
        "record": ("record.py", "--task", "transfer_cube", "--episodes", 2, "--out", "data", *size),
        "inspect": ("inspect_data.py", "data"),
        "replay": ("replay.py", "data/episode_0.hdf5", "--video", "replay.mp4"),
        "train": ("train.py", *data, *TINY, "--eval-every", 6, "--eval-episodes", 2, "--num-envs", 2),
        "rollout": (
            *("rollout.py", "--checkpoint", "run", "--episodes", 3, "--num-envs", 2, "--horizon", 50),
            *(
                "--videos",
                1,
                "--json",
                "results.json",
                "--temporal-ensemble-coeff",
                0.01,
                "--replan-every",
                5,
                "--wandb",
                "offline",
            ),
        ),
    }
    printed = {}
    for name, (which, *arguments) in commands.items():
        run = script(which, *arguments, folder=folder)
        assert run.returncode == 0, run.stderr
        printed[name] = run.stdout
    return folder, printed


def test_record_says_what_it_did(line):
    folder, printed = line
    assert "data: 2 episodes" in printed["record"]
    assert "0 failed attempts were rejected" in printed["record"]
    assert sorted(path.name for path in (folder / "data").glob("*.hdf5")) == ["episode_0.hdf5", "episode_1.hdf5"]


def test_replay_finds_no_difference(line):
    folder, printed = line
    assert "largest qpos difference: 0\n" in printed["replay"]
    assert "success: True (strict), True (published)" in printed["replay"]
    assert (folder / "replay.mp4").stat().st_size > 10_000


def test_inspect_draws(line):
    folder, printed = line
    assert "2 episodes, 800 steps" in printed["inspect"]
    assert {path.name for path in (folder / "data" / "inspect").iterdir()} == {"top.png", "joints.png"}


def test_train_leaves_a_whole_run(line):
    folder, _ = line
    run = folder / "run"
    assert {"config.json", "metrics.jsonl", "curves.png", "best.pt", "last.pt"} <= {p.name for p in run.iterdir()}
    history = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history if "train/loss" in record] == [2, 4, 6]
    assert {"val/loss", "val/predict_l1"} <= set().union(*history)
    assert [record["eval/success_rate"] for record in history if "eval/success_rate" in record]


def test_rollout_reports_every_seed(line):
    folder, printed = line
    results = json.loads((folder / "results.json").read_text())
    assert [episode["seed"] for episode in results["episodes"]] == [100_000, 100_001, 100_002]
    assert results["summary"]["episodes"] == 3
    assert sum(results["summary"]["highest_stage"].values()) == 3
    assert results["settings"]["env_id"] == "BimanualTransferCube-v0"
    for word in ("success, strict", "success, published", "95 % interval", "jerk", "ms median"):
        assert word in printed["rollout"]
    assert (folder / "run" / "rollout" / "seed_100000.mp4").stat().st_size > 1000


def test_compare_counts_the_seeds_that_differ(line, tmp_path):
    folder, _ = line
    results = json.loads((folder / "results.json").read_text())
    for name, outcomes in {"base": (True, False, True), "other": (True, True, False)}.items():
        for episode, success in zip(results["episodes"], outcomes, strict=True):
            episode["success"] = success
        results["summary"] |= summarize([EpisodeResult(**episode) for episode in results["episodes"]])
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    run = forked("compare.py", "base.json", "other.json", "--png", "picture.png", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    head, base, other, _ = run.stdout.splitlines()
    won = head.index("won") + 2
    assert (base[won], other[won], other[won + 6]) == ("-", "1", "1")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_training_and_rollout_are_one_wandb_run(line):
    folder, _ = line
    runs = list((folder / "run" / "wandb").glob("offline-run-*"))
    identity = (folder / "run" / "wandb_id.txt").read_text()
    assert len(runs) == 2
    assert all(run.name.endswith(identity) for run in runs)


NO_RESULTS = ["run/config.json", "--json"]
OTHER_SETTINGS = ["run", "settings", "lr", 0.1, "--resume", "--out"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["record.py", "--task", "juggling", "--out", "new"],
            ["juggling", "transfer_cube", "insertion", "hand_over"],
        ),
        (
            ["record.py", "--task", "insertion", "--out", "data", "--height", "24", "--width", "32"],
            ["data", "BimanualInsertion-v0", "BimanualTransferCube-v0"],
        ),
        (["record.py", "--task", "insertion", "--out", "new", "--cameras", "nose"], ["nose", "top", "left_pillar"]),
        (["replay.py", "run/config.json"], ["run/config.json", "HDF5"]),
        (["inspect_data.py", "nowhere"], ["nowhere", "no such folder"]),
        (["inspect_data.py", "empty"], ["empty", "no episodes"]),
        (["train.py", "--data", "data", "--out", "new", "--chunk-size", "500"], ["chunk_size", 500, "data", 400]),
        (["train.py", "--data", "data", "--out", "new", "--device", "cuda"], ["cuda", "--device cpu"]),
        (["train.py", "--data", "data", "--out", "run", *TINY, "--lr", "0.1"], OTHER_SETTINGS),
        (["train.py", "--data", "data", "--out", "run", *TINY], ["run", "--resume", "--out"]),
        (["teleop.py", "--out", "new"], ["--task", "--checkpoint"]),
        (
            ["teleop.py", "--out", "new", "--checkpoint", "run", "--assist", "left"],
            ["--assist", "--checkpoint"],
        ),
        (["teleop.py", "--out", "data", "--task", "transfer_cube"], ["data", "transfer_cube"]),
        (["view.py", "nowhere"], ["nowhere", "no such"]),
        (["view.py", "empty"], ["empty", "no episodes"]),
        (["view.py", "run/config.json"], NO_RESULTS),
        (["compare.py", "nowhere.json"], ["nowhere.json", "no such file"]),
        (["compare.py", "run/config.json"], NO_RESULTS),
        (["rollout.py", "--checkpoint", "nowhere.pt"], ["nowhere.pt", "no such checkpoint"]),
        (["rollout.py", "--checkpoint", "run", "--n-action-steps", "99"], [99, 20]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_mistake_is_one_line_and_exit_code_2(line, arguments, parts):
    folder, _ = line
    (folder / "empty").mkdir(exist_ok=True)
    name, *rest = arguments
    if name == "train.py" and "run" in rest:
        rest += ["--eval-every", "6", "--eval-episodes", "2"]
    run = forked(name, *rest, folder=folder)
    assert run.returncode == 2, run.stderr
    [told] = run.stderr.splitlines()
    assert told.startswith("error: ")
    assert says(told, *parts)


@pytest.mark.parametrize(
    "name", [path.name for path in Path("scripts").glob("*.py") if "\nif __name__" in path.read_text()]
)
def test_every_flag_is_explained(name, tmp_path):
    run = script(name, "--help", folder=tmp_path)
    assert run.returncode == 0
    flags = [text for text in run.stdout.splitlines() if text.lstrip("│ ").startswith("--")]
    assert flags
    assert "Args:" not in run.stdout
