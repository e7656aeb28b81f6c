"""The direction of the arrows: lower rooms do not know higher ones."""

import subprocess
import sys

import pytest


def loaded_by(code: str) -> set[str]:
    """Top-level modules in sys.modules after running `code` in a fresh interpreter."""
    report = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", f"{code}; {report}"], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        (
            "import envs.transfer_cube, envs.insertion, envs.results, envs.film",
            {"demos", "act", "scripts", "torch", "h5py"},
        ),
        (
            "import demos.experts, demos.record, demos.replay, demos.session",
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
