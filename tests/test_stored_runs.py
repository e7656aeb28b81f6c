"""Laws of what an older version has stored (tests/stored): its runs continue, its results are read.

The files were written before settings, policies and parameters got their present names.
"""

import json
import shutil
from pathlib import Path

import pytest
from test_training import curve
from tiny import write_episodes

from act.agent_settings import AgentSettings
from act.run_folder import RunFolder
from act.stored_names import RENAMED_SETTINGS
from envs.results import read_results
from scripts import compare, train

STORED = Path(__file__).with_name("stored")


def test_a_run_of_an_older_version_continues_as_that_version_would_have(tmp_path):
    write_episodes(tmp_path / "data")
    shutil.copytree(STORED / "run", tmp_path / "run")
    later = [json.loads(line) for line in (tmp_path / "run/later_metrics.jsonl").read_text().splitlines()]
    before = curve(tmp_path / "run")
    words = f"--out {tmp_path / 'run'} --resume --steps 8 --wandb disabled"
    assert train.main(train.parse(words.split())) == 0
    after = curve(tmp_path / "run")
    assert after[: len(before)] == before
    for wanted, record in zip(later, after[len(before) :], strict=True):
        for name in {"step", "train/loss", "train/grad_norm", "val/predict_l1"} & wanted.keys():
            assert record[name] == pytest.approx(wanted[name], rel=1e-4)
    settings = json.loads((tmp_path / "run/config.json").read_text())
    assert settings["beginning_fraction"] == 0.3
    assert not settings.keys() & RENAMED_SETTINGS.keys()


def test_results_of_an_older_version_are_read(tmp_path, capsys):
    results = read_results(STORED / "results.json")
    assert AgentSettings.from_results(results["settings"]) == AgentSettings(
        n_action_steps=2, sample="episode", horizon=8
    )
    shutil.copy(STORED / "results.json", tmp_path / "other.json")
    compare.main(compare.Args((STORED / "results.json", tmp_path / "other.json")))
    assert "other" in capsys.readouterr().out


def test_stored_files_have_old_names():
    stored = RunFolder(STORED / "run").config.read_text() + (STORED / "results.json").read_text()
    old = {"skip_pauses", "skip_misses", "beginnings", "execute", "ensemble", "every", "draws", "way", "phrases"}
    assert all(f'"{name}"' in stored for name in old)
