"""Laws of the latent plot: distances are geometry, and a collapsed latent gives one point."""

import numpy as np
import pytest
import torch
from tiny import BLIND, SPEC, write_episodes

from act.checkpoint import describe, to_bytes
from act.errors import ConfigError
from act.policies import Policy, PolicySettings
from act.policies.generators.config import RegressionConfig
from demos.kinematics import forward_kinematics
from demos.robot import ALOHA
from scripts.latent_plot import Args, main, moving_arms, travel


def saved(config: PolicySettings, folder, collapsed: bool = False):
    torch.manual_seed(0)
    policy = Policy(config, SPEC)
    if collapsed:
        torch.nn.init.zeros_(policy.generator.get_parameter("latent_proj.weight"))
    folder.mkdir()
    (folder / "last.pt").write_bytes(to_bytes({**describe(policy), "weights": policy.state_dict(), "ema": None}))
    return folder


def test_a_turn_of_the_waist_moves_the_end_effector_along_its_circle():
    start, chunks = np.zeros((1, 14)), np.zeros((1, 5, 14))
    chunks[0, -1, 7] = 0.1  # the right waist
    left, right = travel(ALOHA, start, chunks)[0]
    assert left == 0
    radius = 100 * forward_kinematics(ALOHA, start)[0, 1, 0]  # ahead of the base, which the arm points at
    assert right == pytest.approx(2 * radius * np.sin(0.05))


def test_every_chunk_moves_one_arm_both_or_none():
    distances = np.array([[9.0, 1.0], [1.0, 9.0], [9.0, 9.0], [0.0, 0.0]])
    shares = moving_arms(distances, np.array([5.0, 5.0]))
    assert shares == {"left": 0.25, "right": 0.25, "both": 0.25, "neither": 0.25}


@pytest.mark.parametrize("collapsed", [False, True])
def test_samples_of_a_collapsed_latent_are_one_point(tmp_path, capsys, monkeypatch, collapsed):
    groups = {}
    monkeypatch.setattr("scripts.latent_plot.plot", lambda found, *_: groups.update(found))
    main(Args(saved(BLIND, tmp_path / "run", collapsed), write_episodes(tmp_path / "data"), tmp_path / "latent.png"))
    assert groups["shown"].shape == groups["mean of the prior"].shape == (3, 2)
    spread = groups["sampled"].reshape(3, 10, 2).std(axis=1).max()
    assert (spread < 1e-4) == collapsed
    assert "mean of the prior" in capsys.readouterr().out


def test_the_picture_is_drawn(tmp_path):
    run, data = saved(BLIND, tmp_path / "run"), write_episodes(tmp_path / "data")
    main(Args(run, data, tmp_path / "latent.png", samples=2))
    assert (tmp_path / "latent.png").read_bytes()[:4] == b"\x89PNG"


def test_a_policy_without_a_latent_is_refused(tmp_path):
    run = saved(BLIND.replace(generator=RegressionConfig()), tmp_path / "run")
    with pytest.raises(ConfigError, match="has no latent to sample"):
        main(Args(run, write_episodes(tmp_path / "data"), tmp_path / "latent.png"))
