"""What holds for every way of generating a chunk: it learns, answers, resumes exactly, and goes through the scripts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import forked, functions
from test_training import curve, make_trainer
from tiny import BLIND, PLACES, THREE_CAMERAS, family, make_batch, write_episodes

from act.checkpoint import load_policy
from act.distributed import join_world
from act.policies import POLICIES, Observation, Policy, make_policy
from act.policies.config import AnsweringConfig


def make_tiny(name: str, base: AnsweringConfig = BLIND, **settings) -> Policy:
    torch.manual_seed(0)
    return make_policy(family(name, base, **settings), THREE_CAMERAS)


@pytest.mark.parametrize("name", POLICIES)
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


@pytest.mark.parametrize("name", POLICIES)
def test_an_answer_depends_on_its_own_observation_and_chance_alone(name):
    policy, batch = make_tiny(name).eval(), make_batch(4)
    chance, poses = torch.randn(4, policy.noise_dim), batch.observation.env_state
    assert poses is not None
    together = policy.predict(batch.observation, chance)
    for i in range(4):
        seen = Observation(batch.observation.qpos[i : i + 1], env_state=poses[i : i + 1])
        torch.testing.assert_close(policy.predict(seen, chance[i : i + 1]), together[i : i + 1])
    torch.testing.assert_close(policy.predict(batch.observation, chance), together)


@pytest.mark.parametrize("name", POLICIES)
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
        for done in functions(n, one_step, data, tmp_path / str(n), folder=tmp_path):
            assert done.returncode == 0, done.stderr
    for name in NOTHING_RANDOM:
        one, two = (torch.load(tmp_path / str(n) / f"{name}.pt") for n in (1, 2))
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    flags = ["--task", "transfer_cube", "--episodes", 2, "--out", "data", "--height", 24, "--width", 32]
    assert forked("record.py", *flags, folder=folder).returncode == 0
    return folder


@pytest.mark.parametrize("name", POLICIES)
def test_the_scripts_train_it_and_roll_it_out(name, recorded, tmp_path):
    small = "--chunk-size 10 --d-model 16 --n-heads 2 --ffn-dim 32 --n-encoder-layers 1 --steps 4 --batch-size 4 "
    small += "--val-every 2 --val-starts 8 --save-every 2 --log-every 2 --warmup-steps 1"
    data = ["--data", recorded / "data", "--out", "run", "--policy", name, "--wandb", "disabled"]
    trained = forked("train.py", *data, *small.split(), folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    flags = ["--checkpoint", "run", "--episodes", 2, "--num-envs", 2, "--horizon", 12, "--sample", "chunk"]
    rolled = forked("rollout.py", *flags, folder=tmp_path)
    assert rolled.returncode == 0, rolled.stderr
    assert "success, strict" in rolled.stdout


def test_a_rollout_may_sample_otherwise_and_says_what_a_family_lacks(recorded, tmp_path):
    small = "--chunk-size 10 --d-model 16 --n-heads 2 --ffn-dim 32 --steps 1 --batch-size 2 --backbone-weights none "
    small += "--no-backbone-frozen --frame-shift 0 --backbone resnet18 --backbone-width 0.125"
    data = ["--data", recorded / "data", "--out", "run", "--policy", "diffusion", "--wandb", "disabled"]
    assert forked("train.py", *data, *small.split(), folder=tmp_path).returncode == 0
    flags = ["--checkpoint", "run", "--episodes", 1, "--num-envs", 1, "--horizon", 5]
    assert forked("rollout.py", *flags, "--sampling-steps", 2, folder=tmp_path).returncode == 0
    foreign = forked("rollout.py", *flags, "--temperature", 0.5, folder=tmp_path)
    assert foreign.returncode == 2
    assert "of the family diffusion, which has no temperature; leave --temperature out" in foreign.stderr
    policy = load_policy(tmp_path / "run", "cpu", {"sampling_steps": 7})
    assert policy.config.sampling_steps == 7


def test_an_unknown_family_is_named(tmp_path):
    wrong = forked("train.py", "--policy", "oracle", "--data", "x", "--out", "y", folder=tmp_path)
    assert wrong.returncode == 2
    assert "error: unknown policy 'oracle'; known policies: act, regression, autoencoder, gan" in wrong.stderr


def test_help_shows_the_settings_of_the_chosen_family_alone(tmp_path):
    shown = forked("train.py", "--policy", "diffusion", "--help", folder=tmp_path).stdout
    assert "--noise-levels" in shown
    assert "--kl-weight" not in shown
    assert "--kl-weight" in forked("train.py", "--help", folder=tmp_path).stdout
