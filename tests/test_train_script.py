"""Laws of scripts/train.py: a kill costs nothing, a run is never overwritten, its folder tells all of it."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from messages import refusal, says
from PIL import Image
from test_training import curve
from tiny import write_episodes

from act.checkpoint import load_policy
from act.presets import PRESETS
from act.run_folder import RunFolder
from scripts import train as script

ROOT = Path(__file__).parents[1]
FLAGS = {
    "chunk-size": 6,
    "d-model": 16,
    "n-heads": 2,
    "ffn-dim": 32,
    "steps": 60,
    "batch-size": 4,
    "log-every": 2,
    "val-every": 10,
    "save-every": 10,
    "device": "cpu",
    "dropout": 0.1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data"))


def words(data: Path, out: Path, **flags: object) -> list[str]:
    return [
        f"--{k.replace('_', '-')}={v}"
        for k, v in {"data": data, "out": out, **FLAGS, "wandb": "disabled", **flags}.items()
    ]


def call(*args: str) -> int | None:
    return script.main(script.parse(list(args)))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of the script that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert call(*words(data, out)) == 0
    return out


def test_kill_9_and_resume_give_the_same_curve_in_one_wandb_run(data, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))  # no login here, whoever runs this
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts/train.py"), *words(data, out, wandb="offline")])
    deadline = time.monotonic() + 120
    while len(RunFolder(out).history()) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed_at = RunFolder(out).history()[-1]["step"]
    assert 20 <= killed_at < 60
    load_policy(out, "cpu")

    assert call("--out", str(out), "--resume", "--wandb", "online") == 0
    printed = capsys.readouterr().out
    assert "continuing after step" in printed
    assert curve(out) == curve(whole)
    assert np.asarray(Image.open(out / "curves.png").convert("L")).std() > 10, "something is drawn"
    assert not list(out.rglob(".*.part"))
    run_id = (out / "wandb_id.txt").read_text()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))) == 2
    assert says(printed, "no login", "offline", f"wandb sync {tmp_path}/wandb/offline-run")


def test_a_run_folder_is_not_overwritten(data, whole, capsys):
    def refused(*args: str) -> str:
        return refusal(lambda: call(*args))

    before = (whole / "metrics.jsonl").read_bytes()
    assert says(refused(*words(data, whole)), whole, "--resume", "--out")
    other = (whole, "settings", "--resume", "--out")
    assert says(refused(*words(data, whole, lr=0.1)), *other, "lr", PRESETS["cpu"][1].lr, 0.1)
    # A cosine's learning rates depend on where it ends, so its run cannot be prolonged.
    assert says(refused("--out", str(whole), "--resume", "--steps", "90"), *other, "steps", 60, 90)
    assert says(refused(*words(data, data)), data, "episode_0.hdf5", "no run", "--out")
    assert says(refused(*words(data, whole, preset="big")), "big", *PRESETS)
    assert (whole / "metrics.jsonl").read_bytes() == before
    capsys.readouterr()
    assert call("--out", str(whole), "--resume", "--wandb", "disabled") == 0  # nothing is left to do
    assert "in memory" not in capsys.readouterr().out  # and no frame is read
    assert curve(whole)[-1]["step"] == 60


def test_config_json_tells_every_setting(data, whole):
    settings = json.loads((whole / "config.json").read_text())
    policy, training = PRESETS["cpu"]
    for name, value in (policy.to_dict() | dataclasses.asdict(training)).items():
        assert settings[name] == FLAGS.get(name.replace("_", "-"), value)
    assert settings["data"] == [str(data)]
    assert settings["episode_cameras"] == {"top": [24, 32], "wrist": [16, 24]}


def test_the_preset_takes_larger_batches_for_a_policy_that_is_told(tmp_path):
    def batch(*flags: str) -> tuple[int, float]:
        training = script.parse(["--data", "d", "--out", str(tmp_path), *flags]).training
        return training.batch_size, training.lr

    assert batch() == batch("--preset", "cpu") == (16, 7e-4)
    assert batch("--text-encoder", "minilm") == batch("--policy", "gan", "--text-encoder", "minilm") == (64, 1e-3)
    assert batch("--text-encoder", "minilm", "--batch-size", "32") == (32, 1e-3)
    assert batch("--preset", "paper", "--text-encoder", "minilm") == (8, 1e-5)


def test_episodes_of_several_folders_are_learned_together(data, tmp_path, capsys):
    more, out = write_episodes(tmp_path / "more", lengths=(20, 22), seeds=[90, 91]), tmp_path / "run"
    both = ["--data", str(data), str(more)]
    assert call(*both, *words(data, out, steps=2)[1:]) == 0
    assert "from 5 episodes" in capsys.readouterr().out
    assert RunFolder(out).settings()["data"] == [str(data), str(more)]  # pyright: ignore[reportOptionalSubscript]


def test_a_constant_schedule_can_be_prolonged(data, tmp_path):
    short = words(data, tmp_path / "run", schedule="constant", steps=6, cameras="wrist")
    assert call(*short) == 0
    assert call("--out", str(tmp_path / "run"), "--resume", "--steps", "10", "--wandb", "disabled") == 0
    assert call(*words(data, tmp_path / "long", schedule="constant", steps=10, cameras="wrist")) == 0
    last = [curve(tmp_path / name)[-1] for name in ("run", "long")]
    assert last[0] == last[1]
