"""What holds for every way of generating a chunk: it learns, answers, resumes exactly, and goes through the scripts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import functions, roll_out, train
from messages import refusal, says
from test_training import curve, make_trainer
from tiny import BLIND, IN_SIMULATION, PLACES, THREE_CAMERAS, family, make_batch, write_episodes

import scripts.train
from act.checkpoint import load_policy
from act.distributed import join_world
from act.policies import GENERATORS, Observation, Policy, PolicySettings, make_policy
from act.run_folder import RunFolder
from envs.results import read_results


def make_tiny(name: str, base: PolicySettings = BLIND, **settings) -> Policy:
    torch.manual_seed(0)
    return make_policy(family(name, base, **settings), THREE_CAMERAS)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("base", [BLIND, PLACES], ids=["poses", "pictures and places"])
def test_every_parameter_learns_and_answers_are_finite(name, base):
    policy, batch = make_tiny(name, base), make_batch(4)
    batch = replace(batch, keyframe=torch.randn(4, 8) / 4)
    losses = policy.train()(batch)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    losses["loss"].backward()
    unused = [key for key, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    policy.eval()
    for chance in (None, torch.randn(4, policy.noise_dim)):
        answer = policy.predict(batch.observation, chance)
        assert answer.shape == (4, 6, 14)
        assert answer.isfinite().all()


@pytest.mark.parametrize("name", GENERATORS)
def test_an_answer_depends_on_its_own_observation_and_chance_alone(name):
    policy, batch = make_tiny(name).eval(), make_batch(4)
    chance, poses = torch.randn(4, policy.noise_dim), batch.observation.env_state
    assert poses is not None
    together = policy.predict(batch.observation, chance)
    for i in range(4):
        seen = Observation(batch.observation.qpos[i : i + 1], env_state=poses[i : i + 1])
        torch.testing.assert_close(policy.predict(seen, chance[i : i + 1]), together[i : i + 1])
    torch.testing.assert_close(policy.predict(batch.observation, chance), together)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_stopped_training_continues_exactly(name, tmp_path):
    data = write_episodes(tmp_path / "data")

    def trainer(out: str, **settings):
        return make_trainer(data, tmp_path / out, base=family(name), schedule="constant", save_every=4, **settings)

    whole = trainer("whole", steps=8)
    assert whole.run()
    assert trainer("run", steps=4).run()
    resumed = trainer("run", steps=8)
    assert resumed.step == 4
    assert resumed.run()
    assert curve(resumed.folder)[-1] == curve(whole.folder)[-1]
    for one, other in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    loaded = load_policy(tmp_path / "run" / "last.pt", "cpu")
    assert whole.ema is not None
    for key, value in whole.inference_policy().state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


NOTHING_RANDOM = ("regression", "autoencoder", "autoregressive", "flow")


def one_step(data: Path, out: Path) -> None:
    """A rank's share of a step of each family; the gradients go into files."""
    with join_world() as world:
        for name in NOTHING_RANDOM:
            settings: Any = dict(batch_size=12, steps=1, warmup_steps=0, policy_settings={"dropout": 0.0})
            trainer = make_trainer(data, out / name / str(world.rank), base=family(name), world=world, **settings)
            trainer.run()
            if world.is_main:
                torch.save([p.grad for p in trainer.policy.parameters()], out / f"{name}.pt")


def test_two_processes_take_the_step_of_one(tmp_path):
    data = write_episodes(tmp_path / "data")
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
    one_step(data, tmp_path / "1")
    for done in functions(2, one_step, data, tmp_path / "2", folder=tmp_path):
        assert done.returncode == 0, done.stderr
    for name in NOTHING_RANDOM:
        one, two = (torch.load(tmp_path / str(n) / f"{name}.pt") for n in (1, 2))
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Short episodes that fit the environment of transfer cube, and mean nothing."""
    return write_episodes(tmp_path_factory.mktemp("data"), lengths=(20, 25), spec=IN_SIMULATION)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_scripts_train_it_and_roll_it_out(name, data, tmp_path):
    small = "--chunk-size 4 --d-model 16 --n-heads 2 --ffn-dim 32 --n-encoder-layers 1 --steps 4 --batch-size 4 "
    small += "--val-every 2 --val-starts 8 --save-every 2 --log-every 2 --warmup-steps 1"
    if name != "act":  # of pictures the one that is the default
        small += " --keyframe-weight 0 --ee-position-weight 0 --use-env-state --cameras"
    train("--data", data, "--out", tmp_path / "run", "--policy", name, *small.split())
    history = RunFolder(tmp_path / "run").history()
    assert [record["step"] for record in history if "train/loss" in record] == [2, 4]
    assert all("val/predict_l1" in record for record in history if "val/loss" in record)
    results = tmp_path / "results.json"
    flags = ["--episodes", 2, "--num-envs", 1, "--horizon", 12, "--sample", "chunk", "--json", results]
    roll_out("--checkpoint", tmp_path / "run", *flags)
    episodes = read_results(results)["episodes"]
    assert [(episode["seed"], episode["length"]) for episode in episodes] == [(100_000, 12), (100_001, 12)]
    assert all(episode["jerk"] > 0 for episode in episodes), "it moves"


def test_a_rollout_may_sample_otherwise_and_says_what_a_family_lacks(data, tmp_path):
    small = "--chunk-size 10 --d-model 16 --n-heads 2 --ffn-dim 32 --steps 1 --batch-size 2 --backbone-weights none "
    small += "--no-backbone-frozen --frame-shift 0 --backbone resnet18 --backbone-width 0.125"
    train("--data", data, "--out", tmp_path / "run", "--policy", "diffusion", *small.split())
    flags = ["--checkpoint", tmp_path / "run", "--episodes", 1, "--num-envs", 1, "--horizon", 5]
    results = tmp_path / "results.json"
    roll_out(*flags, "--num-inference-steps", 2, "--json", results)
    assert read_results(results)["settings"]["num_inference_steps"] == 2
    assert says(refusal(lambda: roll_out(*flags, "--temperature", 0.5)), "diffusion", "--temperature")
    policy = load_policy(tmp_path / "run", "cpu", {"num_inference_steps": 7})
    assert policy.settings.to_dict()["num_inference_steps"] == 7


def test_an_unknown_family_is_named():
    line = refusal(lambda: scripts.train.parse(["--policy", "oracle", "--data", "x", "--out", "y"]))
    assert says(line, "oracle", *GENERATORS)


def test_help_shows_the_settings_of_the_chosen_family_alone(capsys):
    shown = []
    for words in (["--policy", "diffusion", "--help"], ["--policy", "act", "--help"]):
        with pytest.raises(SystemExit):
            scripts.train.parse(words)
        shown.append(capsys.readouterr().out)
    assert ["--num-train-timesteps" in text for text in shown] == [True, False]
    assert ["--kl-weight" in text for text in shown] == [False, True]
