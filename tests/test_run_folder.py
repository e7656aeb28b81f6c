"""Laws of a run's folder: what was damaged or edited in it is named, and nothing else is lost."""

import json
import re

import pytest

from act.errors import ConfigError
from act.run_folder import RunFolder
from envs import EnvError
from envs.results import EpisodeResult, read_results, summarize

LINES = ['{"step": 1, "train/loss": 2.5}\n', '{"step": 2, "train/loss": NaN}\n']


def test_a_line_that_a_kill_cut_off_is_none(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.history() == []
    folder.metrics.write_text("".join(LINES) + '{"step": 3, "tra')
    assert [record["step"] for record in folder.history()] == [1, 2]


def test_what_came_after_a_step_is_forgotten_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 2, 3):
        folder.append({"step": step, "train/loss": 1 / step})
    folder.rewind(2)
    assert folder.history() == [{"step": 1, "train/loss": 1.0}, *[{"step": 2, "train/loss": 0.5}] * 2]


@pytest.mark.parametrize(
    "damaged", ['{"step": 1, "tra\n', "\x00\x00\n", "7\n", '{"loss": 1}\n', '{"step": "one"}\n', "\n"]
)
def test_a_damaged_line_is_named_and_the_others_stay(tmp_path, damaged):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(text := LINES[0] + damaged + LINES[1])
    for read in (folder.history, lambda: folder.rewind(1)):
        with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is damaged; mend it or take it out"):
            read()
    assert folder.metrics.read_text() == text


@pytest.mark.parametrize("damaged", [b"", b'{"lr": 1', b"\xff\xfe", b"[]", b"null"])
def test_damaged_settings_are_named(tmp_path, damaged):
    folder = RunFolder(tmp_path)
    assert folder.settings() is None
    folder.config.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"config\.json is damaged; put it back, or train anew in another --out"):
        folder.settings()
    assert folder.config.read_bytes() == damaged


def results(*successes: bool) -> dict:
    episodes = [EpisodeResult(seed, won, True, 4, 300, 290 if won else None, 5.0) for seed, won in enumerate(successes)]
    return {"settings": {}, "summary": summarize(episodes), "episodes": [vars(episode) for episode in episodes]}


def test_results_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(True, False)))
    assert read_results(path)["summary"]["success_rate"] == 0.5


def test_results_that_somebody_changed_are_refused(tmp_path):
    path, found = tmp_path / "results.json", results(True, False)
    found["episodes"][1]["success"] = True
    path.write_text(json.dumps(found))
    with pytest.raises(EnvError, match=r"results\.json was changed: its success_rate is not that of its episodes"):
        read_results(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"seed": 0', '"seed": "x"'),
        lambda text: text.replace('"jerk"', '"jork"'),
        lambda text: re.sub(r'"episodes": \[.*\]', '"episodes": []', text),
    ],
)
def test_damaged_results_are_named(tmp_path, damage):
    path = tmp_path / "results.json"
    path.write_text(damage(json.dumps(results(True, False))))
    with pytest.raises(EnvError, match=r"results\.json is not what scripts/rollout\.py writes with --json"):
        read_results(path)


def test_a_run_from_before_a_setting_goes_on_with_what_it_was_then(tmp_path):
    RunFolder(tmp_path / "run").claim({"lr": 0.1}, resume=False, free=set())
    with pytest.raises(ConfigError, match="jpeg_colors 'auto' there, 'rgb' now"):
        RunFolder(tmp_path / "run").claim({"lr": 0.1, "jpeg_colors": "rgb"}, resume=True, free=set())
    RunFolder(tmp_path / "run").claim({"lr": 0.1, "jpeg_colors": "auto"}, resume=True, free=set())
