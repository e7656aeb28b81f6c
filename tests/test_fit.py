"""Laws of the recipe as a function, and of the lines of Python that the front page shows."""

import dataclasses

import numpy as np
import pytest
import torch
from messages import refusal
from test_agent_settings import LATENT, TRANSFER, saved, spec
from test_training import TRAIN, curve
from tiny import BLIND, TINY, write_episodes

from act import agent_from, load_policy
from act.agent import PolicyAgent
from act.agent_settings import AgentSettings
from act.chunking import RecedingHorizon, TemporalEnsemble
from act.fit import fit, prepare

CONFIG = dataclasses.replace(TRAIN, steps=4, val_every=2, save_every=4, log_every=2)

FRONT_PAGE = """
from act import agent_from, load_policy
from envs.results import evaluate
from envs.rollout import make_vector_env

policy = load_policy("demo")
venv = make_vector_env(policy.spec.env_id, cameras=policy.spec.cameras)
print(evaluate(venv, agent_from(policy), seeds=[100_000]))
"""
"""README.md shows these lines."""

ONE_ENVIRONMENT = """
import envs, gymnasium as gym
from act import agent_from, load_policy

policy = load_policy("demo")
env = gym.make(policy.spec.env_id, cameras=policy.spec.cameras)
observation, info = env.reset(seed=100_000)
agent = agent_from(policy)
agent.reset([100_000])
for _ in range(3):
    observation, reward, terminated, truncated, info = env.step(agent.act(observation))
print("success:", info["is_success"])
"""


def test_a_policy_is_fitted_in_one_call_and_its_folder_is_a_run(tmp_path):
    lines: list[str] = []
    records: list[dict[str, float]] = []
    data = write_episodes(tmp_path / "data")
    result = fit(data, BLIND, CONFIG, tmp_path / "run", log=records.append, say=lines.append)
    assert (result.finished, result.step) == (True, 4)
    assert not result.policy.training
    stored = load_policy(tmp_path / "run" / "last.pt", "cpu").state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in result.policy.state_dict().items())
    assert records == result.folder.history()
    assert any("starts to train on" in line for line in lines)
    from scripts.train import main, parse  # the same folder, continued by the script

    words = f"--out {tmp_path / 'run'} --resume --wandb disabled"
    assert main(parse(words.split())) == 0


def test_a_fit_that_is_resumed_is_the_whole_one(tmp_path):
    data = write_episodes(tmp_path / "data")
    constant = dataclasses.replace(CONFIG, schedule="constant", val_fraction=0.0)
    whole = fit(data, BLIND, constant, tmp_path / "whole")
    fit([data], BLIND, dataclasses.replace(constant, steps=2, save_every=2), tmp_path / "parts")
    parts = fit([data], BLIND, constant, tmp_path / "parts", resume=True)
    assert curve(whole.folder) == curve(parts.folder)


def test_the_best_is_the_best_by_the_function_that_evaluates(tmp_path):
    rates = iter([0.5, 0.1])
    config = dataclasses.replace(CONFIG, eval_every=2)
    run = fit(
        write_episodes(tmp_path / "data"),
        BLIND,
        config,
        tmp_path / "run",
        evaluate=lambda policy: {"success_rate": next(rates)},
    )
    assert [r["eval/success_rate"] for r in run.folder.history() if "eval/success_rate" in r] == [0.5, 0.1]


def test_nothing_is_written_before_the_folder_is_claimed(tmp_path):
    data = write_episodes(tmp_path / "data")
    run = prepare([data], BLIND, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run.claim()
    assert "already holds this run" in refusal(lambda: prepare([data], BLIND, CONFIG, tmp_path / "run").claim())


@pytest.mark.parametrize(
    ("settings", "kind", "every"),
    [
        (None, TemporalEnsemble, 1),
        (AgentSettings(temporal_ensemble_coeff=0.5), TemporalEnsemble, 1),
        (AgentSettings(temporal_ensemble_coeff=0.5, replan_every=3), TemporalEnsemble, 3),
        (AgentSettings(n_action_steps=2), RecedingHorizon, 2),
    ],
)
def test_an_agent_executes_as_its_settings_say(tmp_path, settings, kind, every):
    agent = agent_from(load_policy(saved(tmp_path, LATENT, spec(TRANSFER)), "cpu"), settings)
    assert isinstance(agent, PolicyAgent)
    assert type(agent.executor) is kind
    steps = [getattr(agent.executor, name, None) for name in ("replan_every", "n_action_steps")]
    assert every in steps


@pytest.mark.parametrize(
    ("settings", "subject"),
    [
        ({"replan_every": 5}, "--replan-every 5"),
        ({"replan_every": 1}, "--replan-every 1"),
        ({"n_action_steps": 3, "temporal_ensemble_coeff": 0.01}, "--n-action-steps 3"),
    ],
)
def test_settings_without_effect_are_refused(settings, subject):
    line = refusal(lambda: AgentSettings(**settings))
    assert subject in line
    assert "--temporal-ensemble-coeff" in line


def test_one_environment_gets_the_actions_of_the_batch(tmp_path):
    policy = load_policy(saved(tmp_path, LATENT, spec(TRANSFER)), "cpu")
    one, several = agent_from(policy), agent_from(policy)
    one.reset()
    several.reset([0, 0])
    rng = np.random.default_rng(0)
    for _ in range(3):
        observation = {"qpos": rng.normal(size=14), "env_state": rng.normal(size=policy.spec.env_state_dim)}
        observation = {name: value.astype(np.float32) for name, value in observation.items()}
        both = several({name: np.stack([value, value]) for name, value in observation.items()})
        np.testing.assert_allclose(one.act(observation), both[0], atol=1e-6)


@pytest.mark.parametrize(("code", "shown"), [(FRONT_PAGE, "seed=100000"), (ONE_ENVIRONMENT, "success: False")])
def test_a_policy_acts_in_a_few_lines(tmp_path, monkeypatch, capsys, code, shown):
    path = saved(tmp_path, TINY.replace(cameras=("top",)), spec(TRANSFER, "top"))
    code = code.replace('"demo"', repr(str(path))).replace("cameras=", "horizon=4, cameras=")
    exec(code, {})
    assert shown in capsys.readouterr().out
