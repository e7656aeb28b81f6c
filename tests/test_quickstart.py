"""The quick start, short."""

import re

from command import script


def test_the_quick_start_announces_its_time(tmp_path):
    run = script("quickstart.py", "--fast", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    announced = re.search(r"about (\S+) minutes: recording \S+, training \S+, rollouts \S+\n", run.stdout)
    taken = re.search(r"minutes +(\S+): .* \((\S+) were announced\)\n", run.stdout)
    assert announced
    assert taken
    assert announced[1] == taken[2]
    assert 0.2 < float(taken[1]) / float(taken[2]) < 5  # other tests run beside it
    assert len(list((tmp_path / "runs/quickstart_transfer_cube_fast/videos").glob("*.mp4"))) == 1


def test_an_unknown_task_is_named_at_once(tmp_path):
    wrong = script("quickstart.py", "--task", "juggling", folder=tmp_path)
    assert wrong.returncode == 2
    assert "error: unknown task 'juggling'" in wrong.stderr
