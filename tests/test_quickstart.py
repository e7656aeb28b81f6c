"""Laws of the quick start: its commands are valid, its summary holds the rollouts' numbers, its estimate adds up."""

import json
import re

import pytest
import tyro
from command import forked, script
from messages import says
from test_experiment import PARSERS

import scripts.estimate
import scripts.inspect_data
import scripts.quickstart
from envs.results import EpisodeResult, summarize
from scripts.estimate import estimate
from scripts.quickstart import FAST, FULL, Args, main


@pytest.mark.parametrize("fast", [False, True])
def test_its_commands_are_valid_and_its_summary_holds_the_numbers_of_the_rollouts(tmp_path, monkeypatch, capsys, fast):
    parsers = PARSERS | {"inspect_data.py": lambda words: tyro.cli(scripts.inspect_data.Args, args=words)}
    parsed = {}

    def step(name, *arguments):
        parsed[name] = parsers[name]([str(word) for word in arguments])
        if name == "rollout.py":
            results = [EpisodeResult(i, i < 3, True, 4, 9, 8, 1.0) for i in range(4)]
            found = {"settings": {}, "summary": summarize(results), "episodes": [vars(each) for each in results]}
            parsed[name].json.parent.mkdir(parents=True, exist_ok=True)
            parsed[name].json.write_text(json.dumps(found))
        return 60.0

    monkeypatch.setattr(scripts.quickstart, "step", step)
    monkeypatch.setattr(scripts.quickstart, "announce", lambda args, size: 300.0)
    main(Args(task="stack", out=tmp_path / "out", fast=fast))
    size = FAST if fast else FULL
    assert list(parsed) == ["record.py", "train.py", "rollout.py", "inspect_data.py"]
    assert (parsed["record.py"].task, parsed["record.py"].episodes) == ("stack", size.demonstrations)
    assert parsed["train.py"].data == (parsed["record.py"].out,)
    assert parsed["rollout.py"].checkpoint == parsed["train.py"].out
    assert (parsed["rollout.py"].episodes, parsed["rollout.py"].videos) == (size.rollouts, size.videos)
    printed = capsys.readouterr().out
    assert "75 % strict (95 % interval 30 to 95 %), 100 % published, 4 unseen seeds" in printed
    assert re.search(r"minutes +4\.0: recording 1\.0, .* \(5\.0 were announced\)", printed)


def test_the_estimate_is_the_sum_of_what_was_measured(monkeypatch):
    monkeypatch.setattr(
        scripts.estimate, "_simulated", lambda venv, task, always_render: 0.02 if always_render else 0.01
    )
    monkeypatch.setattr(scripts.estimate, "_computed", lambda policy, config, num_envs: (0.001, 0.05, 0.2))
    few, many = (estimate("transfer_cube", "cpu", n, 100 * n, n, num_envs=4, workers=1) for n in (1, 11))
    start = few["recording"] - 400 * 0.02
    assert start > 0, "starting the environments takes time, too"
    assert few["training"] > start + 400 * 0.001 + 100 * 0.05, "and validation"
    per_step = 0.01 + 10 / 50 * (0.02 - 0.01 + 0.2 / 4)
    assert many["rollouts"] - few["rollouts"] == pytest.approx(10 * 400 * per_step, abs=3 * start)


@pytest.mark.slow
def test_the_quick_start_announces_its_time_and_runs(tmp_path):
    run = script("quickstart.py", "--fast", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    announced = re.search(r"about (\S+) minutes: recording \S+, training \S+, rollouts \S+\n", run.stdout)
    taken = re.search(r"minutes +\S+: .* \((\S+) were announced\)\n", run.stdout)
    assert announced
    assert taken
    assert announced[1] == taken[1]
    assert len(list((tmp_path / "runs/quickstart_transfer_cube_fast/videos").glob("*.mp4"))) == 1


def test_an_unknown_task_is_named_at_once(tmp_path):
    wrong = forked("quickstart.py", "--task", "juggling", folder=tmp_path)
    assert wrong.returncode == 2
    assert says(wrong.stderr, "error:", "juggling", "transfer_cube")
