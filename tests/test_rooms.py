"""The direction of the arrows: lower rooms do not know higher ones."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from messages import has


def loaded_by(code: str) -> set[str]:
    """Top-level modules in sys.modules after running `code` in a fresh interpreter."""
    report = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        (
            "import envs.transfer_cube, envs.insertion, envs.results, envs.video",
            {"demos", "act", "scripts", "torch", "h5py"},
        ),
        (
            "import demos.demonstrators, demos.record, demos.replay, demos.session",
            {"act", "scripts", "torch", "wandb", "viser"},
        ),
        ("import demos.episode, demos.writer", {"envs", "mujoco", "gymnasium", "act", "torch"}),
        ("import act.train, act.agent, act.checkpoint", {"envs", "mujoco", "gymnasium", "scripts", "tyro"}),
    ],
)
def test_lower_rooms_do_not_know_higher_ones(code, unknown):
    assert not loaded_by(code) & unknown


def test_rendering_works_whatever_is_imported_first():
    code = (
        "import os; os.environ.pop('MUJOCO_GL', None); os.environ.pop('DISPLAY', None); import mujoco, envs; "
        "import gymnasium as gym; env = gym.make('BimanualTransferCube-v0', cameras=('top',), height=8, width=8); "
        "assert env.reset(seed=0)[0]['images/top'].any()"
    )
    assert "mujoco" in loaded_by(code)


SCRIPTS = [
    path for path in Path(__file__).parents[1].glob("scripts/*.py") if "run(main, " in path.read_text().splitlines()[-1]
]
SLOW = {"torch", "timm", "torchvision", "wandb"}


FORKS = """
import contextlib, io, json, os, runpy, sys
import gymnasium, h5py, matplotlib, mujoco, tyro

for line in sys.stdin:
    folder, *words = json.loads(line)
    if os.fork():
        os.wait()
        continue
    os.chdir(folder)
    sys.argv, out, code = words, io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    modules = sorted({name.split(".")[0] for name in sys.modules})
    print(json.dumps([code or 0, out.getvalue(), modules]), file=sys.__stdout__, flush=True)
    os._exit(0)
"""
"""Runs scripts in forks of a process that has loaded what loads fast."""


@pytest.fixture(scope="module")
def called() -> Iterator[Callable[..., tuple[int, str, set[str]]]]:
    """A script and its words, run in a folder → exit code, what is printed, the modules that were loaded."""
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def call(folder: Path, *words: str) -> tuple[int, str, set[str]]:
            print(json.dumps([str(folder), *words]), file=process.stdin, flush=True)
            code, out, modules = json.loads(process.stdout.readline())  # pyright: ignore[reportOptionalMemberAccess]
            return code, out, set(modules)

        yield call
        process.stdin.close()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_command_line_answers_without_what_takes_seconds_to_import(called, script, tmp_path):
    code, out, modules = called(tmp_path, str(script), "--help")
    assert code == 0
    assert "usage" in out
    assert not modules & SLOW


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--data", "nowhere", "--out", "run"],
        ["train.py", "--data", "nowhere", "--out", "run", "--stepz", "3"],
        ["rollout.py", "--checkpoint", "nowhere"],
        ["view.py", "nowhere"],
        ["view.py", "nowhere.json"],
        ["latent_plot.py", "--checkpoint", "nowhere", "--data", "nowhere", "--png", "a.png"],
        ["teleop.py", "--checkpoint", "nowhere", "--out", "data"],
    ],
    ids=" ".join,
)
def test_so_does_a_mistake_on_it(called, words, tmp_path):
    code, out, modules = called(tmp_path, str(SCRIPTS[0].parent / words[0]), *words[1:])
    assert code == 2, out
    assert has(out, "nowhere") or has(out, "--stepz"), "it names what is wrong"
    assert not modules & SLOW
