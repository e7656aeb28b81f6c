"""The whole line, tiny, through the real scripts; and what a person sees after a mistake."""

import json
from pathlib import Path

import pytest
from command import forked, script

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
            *("--videos", 1, "--json", "results.json", "--ensemble", 0.01, "--every", 5, "--wandb", "offline"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["record.py", "--task", "juggling", "--out", "new"],
            "error: unknown task 'juggling'; known tasks: transfer_cube, insertion, hand_over",
        ),
        (
            ["record.py", "--task", "insertion", "--out", "data", "--height", "24", "--width", "32"],
            "error: data holds episodes with other settings",
        ),
        (
            ["record.py", "--task", "insertion", "--out", "new", "--cameras", "nose"],
            "error: unknown camera 'nose'; known cameras: top, angle, left_pillar",
        ),
        (["replay.py", "run/config.json"], "error: run/config.json: is not a whole HDF5 file"),
        (["inspect_data.py", "nowhere"], "error: nowhere: no such folder"),
        (["inspect_data.py", "empty"], "error: empty: no episodes in it"),
        (
            ["train.py", "--data", "data", "--out", "new", "--chunk-size", "500"],
            "error: chunk_size 500 is longer than every episode in data, the longest has 400 steps",
        ),
        (
            ["train.py", "--data", "data", "--out", "new", "--device", "cuda"],
            "error: cuda was asked for, but this machine has no CUDA device; use --device cpu or auto",
        ),
        (
            ["train.py", "--data", "data", "--out", "run", *TINY, "--lr", "0.1"],
            "error: run holds a run with other settings",
        ),
        (["train.py", "--data", "data", "--out", "run", *TINY], "error: run already holds this run; use --resume"),
        (["teleop.py", "--out", "new"], "error: name a --task, or a --checkpoint whose task it shall be"),
        (
            ["teleop.py", "--out", "new", "--checkpoint", "run", "--assist", "left"],
            "error: --assist and --checkpoint exclude each other",
        ),
        (["teleop.py", "--out", "data", "--task", "transfer_cube"], "error: data holds other episodes"),
        (["view.py", "nowhere"], "error: nowhere: no such file"),
        (["view.py", "empty"], "error: empty: no episodes in it"),
        (["view.py", "run/config.json"], "error: run/config.json is not what scripts/rollout.py writes with --json"),
        (["compare.py", "nowhere.json"], "error: nowhere.json: no such file"),
        (["compare.py", "run/config.json"], "error: run/config.json is not what scripts/rollout.py writes with --json"),
        (["rollout.py", "--checkpoint", "nowhere.pt"], "error: nowhere.pt: no such checkpoint"),
        (["rollout.py", "--checkpoint", "run", "--execute", "99"], "error: cannot execute 99 actions of a chunk of 20"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(line, arguments, message):
    folder, _ = line
    (folder / "empty").mkdir(exist_ok=True)
    name, *rest = arguments
    if name == "train.py" and "run" in rest:
        rest += ["--eval-every", "6", "--eval-episodes", "2"]
    run = forked(name, *rest, folder=folder)
    assert run.returncode == 2, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "name", [path.name for path in Path("scripts").glob("*.py") if "\nif __name__" in path.read_text()]
)
def test_every_flag_is_explained(name, tmp_path):
    run = script(name, "--help", folder=tmp_path)
    assert run.returncode == 0
    flags = [text for text in run.stdout.splitlines() if text.lstrip("│ ").startswith("--")]
    assert flags
    assert "Args:" not in run.stdout
