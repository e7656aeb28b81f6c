"""The direction of the arrows: lower rooms do not know higher ones."""

import subprocess
import sys
from pathlib import Path

import pytest


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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_command_line_answers_without_what_takes_seconds_to_import(script):
    code = (
        f"import contextlib, io, runpy, sys; sys.argv = ['{script.name}', '--help']; out = io.StringIO()\n"
        f"with contextlib.suppress(SystemExit), contextlib.redirect_stdout(out): "
        f"runpy.run_path('{script}', run_name='__main__')\n"
        "assert 'usage' in out.getvalue()"
    )
    assert not loaded_by(code) & SLOW


@pytest.mark.parametrize(
    "command",
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
def test_so_does_a_mistake_on_it(command, tmp_path):
    code = (
        f"import os, runpy, sys; os.chdir('{tmp_path}'); sys.argv = {command}\n"
        f"try: runpy.run_path('{SCRIPTS[0].parent / command[0]}', run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 2, ended\n"
        "else: raise AssertionError('no mistake was found')"
    )
    assert not loaded_by(code) & SLOW
