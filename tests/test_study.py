"""The study of one recipe on several kinds of demonstrations, tiny."""

import json
import re
from pathlib import Path

from command import script
from test_scripts import TINY


def study(folder: Path, *arguments: object):
    flags = ["--out", "study", "--tasks", "transfer_cube", "--demonstrations", 2, "--rollouts", 2]
    more = [f"--train={' '.join(TINY)}", "--rollout=--horizon 30 --num-envs 2"]
    return script("study.py", *flags, *more, *arguments, folder=folder)


def test_a_study_makes_a_table_and_goes_on_where_it_was(tmp_path):
    first = study(tmp_path, "--kinds", "plain")
    assert first.returncode == 0, first.stderr
    both = study(tmp_path, "--kinds", "expert", "plain", "--training-seeds", 1)
    assert both.returncode == 0, both.stderr
    started = re.findall(r"\$ python scripts/(\w+)\.py", both.stdout)
    assert started == ["record", "train", "rollout"]  # for the expert alone
    assert "--noise 0.05" in both.stdout
    lines = (tmp_path / "study" / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["expert", "plain"]
    assert all("0.0 %" in line and "0 to 66" in line for line in lines[2:])
    assert (tmp_path / "study" / "table.png").stat().st_size > 5_000
    assert (tmp_path / "study" / "demonstrations_transfer_cube.png").stat().st_size > 20_000
    results = json.loads((tmp_path / "study" / "results" / "transfer_cube_plain_recipe_0.json").read_text())
    assert results["study"]["kind"] == "plain"
    assert len(results["episodes"]) == 2


def test_an_unknown_kind_is_named(tmp_path):
    wrong = study(tmp_path, "--kinds", "perfect")
    assert wrong.returncode == 2
    assert "error: unknown kind 'perfect'; known kinds: expert, plain, careful, hasty, mixed, pauses" in wrong.stderr
