"""Laws of what z decides: how far tools go is geometry, and a latent that says nothing draws nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import BLIND, SPEC, write_episodes

from act.checkpoint import describe, to_bytes
from act.errors import ConfigError
from act.policies import ACTConfig, ACTPolicy
from demos.kinematics import tool_positions
from scripts.latent_plot import Args, main, travel, ways


def saved(config: ACTConfig, folder, collapsed: bool = False):
    torch.manual_seed(0)
    policy = ACTPolicy(config, SPEC)
    if collapsed:
        torch.nn.init.zeros_(policy.latent_proj.weight)
    folder.mkdir()
    (folder / "last.pt").write_bytes(to_bytes({**describe(policy), "weights": policy.state_dict(), "ema": None}))
    return folder


def test_a_turn_about_the_base_moves_the_tool_along_its_circle():
    start, chunks = np.zeros((1, 14)), np.zeros((1, 5, 14))
    chunks[0, -1, 7] = 0.1  # the right waist
    left, right = travel(start, chunks)[0]
    assert left == 0
    radius = 100 * tool_positions(start[0])[3]  # ahead of the base, which the arm points at
    assert right == pytest.approx(2 * radius * np.sin(0.05))


def test_every_chunk_goes_one_of_four_ways():
    places = np.array([[9.0, 1.0], [1.0, 9.0], [9.0, 9.0], [0.0, 0.0]])
    assert ways(places, np.array([5.0, 5.0])) == {"left": 0.25, "right": 0.25, "both": 0.25, "neither": 0.25}


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_latent_that_is_not_listened_to_draws_one_way(tmp_path, capsys, monkeypatch, collapsed):
    groups = {}
    monkeypatch.setattr("scripts.latent_plot.plot", lambda found, *_: groups.update(found))
    main(Args(saved(BLIND, tmp_path / "run", collapsed), write_episodes(tmp_path / "data"), tmp_path / "ways.png"))
    assert groups["shown"].shape == groups["mean of the prior"].shape == (3, 2)
    spread = groups["drawn"].reshape(3, 10, 2).std(axis=1).max()
    assert (spread < 1e-4) == collapsed
    assert "mean of the prior" in capsys.readouterr().out


def test_the_picture_is_drawn(tmp_path):
    main(Args(saved(BLIND, tmp_path / "run"), write_episodes(tmp_path / "data"), tmp_path / "ways.png", draws=2))
    assert (tmp_path / "ways.png").stat().st_size > 5_000


def test_a_policy_without_a_latent_is_told_so(tmp_path):
    run = saved(replace(BLIND, use_vae=False), tmp_path / "run")
    with pytest.raises(ConfigError, match="no latent to draw from"):
        main(Args(run, write_episodes(tmp_path / "data"), tmp_path / "ways.png"))
