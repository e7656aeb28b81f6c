"""The whole line, tiny, through the real scripts; and what a person sees after a mistake."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tyro
from command import SMALLEST, forked
from imageio_ffmpeg import get_ffmpeg_exe
from messages import says
from PIL import Image

from envs.results import EpisodeResult, summarize


def picture(path: Path) -> np.ndarray:
    """(H, W, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


def frames(path: Path) -> np.ndarray:
    """(T, 480, 640, 3)."""
    command = [get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 480, 640, 3)


def test_record_says_what_it_did(line):
    assert says(line.printed["record"], "data", "3 episodes", "0 failed attempts")
    assert sorted(path.name for path in line.data.glob("*.hdf5")) == [f"episode_{i}.hdf5" for i in range(3)]


def test_replay_finds_no_difference(line):
    assert "largest qpos difference: 0\n" in line.printed["replay"]
    assert "success: True (strict), True (published)" in line.printed["replay"]
    film = frames(line.folder / "replay.mp4")
    assert len(film) == 200, "every other step"
    assert film[0].std() > 20, "there is something to see"
    assert (np.abs(film[100].astype(int) - film[0]).max(axis=-1) > 40).mean() > 0.01, "and it moves"


def test_inspect_draws(line):
    assert says(line.printed["inspect"], "3 episodes", "1200 steps")
    pictures = {path.name: picture(path) for path in (line.data / "inspect").iterdir()}
    assert pictures.keys() == {"top.png", "joints.png"}
    assert all(pixels.std() > 10 for pixels in pictures.values())


def test_train_leaves_a_whole_run(line):
    run = line.run
    assert {"config.json", "metrics.jsonl", "curves.png", "best.pt", "last.pt"} <= {p.name for p in run.iterdir()}
    history = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history if "train/loss" in record] == [2, 4, 6]
    assert {"val/loss", "val/predict_l1"} <= set().union(*history)
    assert [record["step"] for record in history if "eval/success_rate" in record] == [6]


def test_rollout_reports_every_seed(line):
    results = json.loads((line.folder / "results.json").read_text())
    assert [episode["seed"] for episode in results["episodes"]] == [100_000, 100_001, 100_002]
    assert results["summary"]["episodes"] == 3
    assert sum(results["summary"]["highest_stage"].values()) == 3
    assert results["settings"]["env_id"] == "BimanualTransferCube-v0"
    for word in ("success, strict", "success, published", "95 % interval", "jerk", "ms median"):
        assert word in line.printed["rollout"]
    assert frames(line.run / "rollout" / "seed_100000.mp4")[0].std() > 20


def test_compare_counts_the_seeds_that_differ(line, tmp_path):
    results = json.loads((line.folder / "results.json").read_text())
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
    assert picture(tmp_path / "picture.png").std() > 10


def test_training_and_rollout_are_one_wandb_run(line):
    runs = list((line.run / "wandb").glob("offline-run-*"))
    identity = (line.run / "wandb_id.txt").read_text()
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
        (["train.py", "--data", "data", "--out", "run", *SMALLEST, "--lr", "0.1"], OTHER_SETTINGS),
        (["train.py", "--data", "data", "--out", "run", *SMALLEST], ["run", "--resume", "--out"]),
        (["teleop.py", "--out", "new"], ["--task", "--checkpoint"]),
        (
            ["teleop.py", "--out", "new", "--checkpoint", "run", "--assist", "left"],
            ["--assist", "--checkpoint"],
        ),
        (["teleop.py", "--out", "data", "--task", "transfer_cube"], ["data", "camera top", "24x32", "120x160"]),
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
    (line.folder / "empty").mkdir(exist_ok=True)
    name, *rest = arguments
    if name == "train.py" and "run" in rest:
        rest += ["--eval-every", "6", "--eval-episodes", "2"]
    run = forked(name, *rest, folder=line.folder)
    assert run.returncode == 2, run.stderr
    *before, told = run.stderr.splitlines()
    assert all("%|" in text for text in before if text), "nothing but a progress bar"
    assert told.startswith("error: ")
    assert says(told, *parts)


def explanations(shown: str) -> dict[str, str]:
    """Flag → its text in what --help printed, without the default."""
    found: dict[str, str] = {}
    flag = ""
    for line in shown.splitlines():
        line, indent = line.strip("│ "), len(line.lstrip("│")) - len(line.lstrip("│ "))
        if indent < 3 and re.match(r"--?\w", line):
            usage, _, text = line.partition("  ")  # two spaces separate a flag and its type from the text
            flag = usage.split()[0]
            found[flag] = text
        elif indent > 5 and flag:
            found[flag] += " " + line
        elif flag and line.endswith("}"):  # the rest of a long list of choices
            continue
        else:  # a border, or a positional argument
            flag = ""
    return {flag: re.sub(r"\((default|required|optional|repeatable)[^)]*\)", "", text) for flag, text in found.items()}


def test_a_flag_without_a_text_is_found(monkeypatch, capsys):
    @dataclass
    class Args:
        explained: int = 0
        """What it does."""
        explained_on_its_own_line: tuple[int, int, int] | None = None
        """What it does."""
        silent: int = 0

    monkeypatch.setenv("COLUMNS", "80")  # the longest flag leaves no room beside it
    with pytest.raises(SystemExit):
        tyro.cli(Args, args=["--help"])
    texts = explanations(capsys.readouterr().out)
    assert [flag for flag, text in texts.items() if len(text.split()) < 2] == ["--silent"]
    assert len(texts) == 4


@pytest.mark.parametrize(
    "name", [path.name for path in Path("scripts").glob("*.py") if "\nif __name__" in path.read_text()]
)
def test_every_flag_is_explained(name, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no list of choices is broken
    run = forked(name, "--help", folder=tmp_path)
    assert run.returncode == 0
    texts = explanations(run.stdout)
    assert len(texts) > 1
    assert [flag for flag, text in texts.items() if len(text.split()) < 2] == []
    assert "Args:" not in run.stdout
