"""Laws of acting: rollout, film, viewer and evaluation in training play the same episode of a seed."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from messages import has, refusal, says
from tiny import BLIND, TINY, Letters, family, write_episodes

import scripts.acting
import scripts.rollout
import scripts.train
from act.agent_settings import AgentSettings
from act.checkpoint import describe, load_policy, to_bytes
from act.chunking import RecedingHorizon
from act.policies import PolicySettings, make_policy
from act.run_folder import RunFolder
from demos.phrases import instruction_for, sample_instruction
from demos.record import spec_of
from demos.spec import EpisodeSpec
from envs import TASKS
from envs.results import read_results
from envs.rollout import make_vector_env
from envs.video import VideoRecorder
from scripts.acting import agent_for, request_for, tasks_of
from scripts.view import Rerun, labelled

HAND_OVER, STACK, TRANSFER = TASKS["hand_over"], TASKS["stack"], TASKS["transfer_cube"]
WORDS = {"text_encoder": "tiny:Letters", "text_dim": Letters.dim}
LATENT = BLIND.replace(prior="learned")
SEES = TINY.replace(cameras=("top",), **WORDS)
SEED = 100_000


@cache
def spec(task: str, *cameras: str) -> EpisodeSpec:
    return spec_of(gym.make(task, cameras=dict.fromkeys(cameras, (24, 32)), lazy=True, disable_env_checker=True))


def saved(folder: Path, config: PolicySettings, learnt: EpisodeSpec) -> Path:
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    policy = make_policy(config, learnt)
    path = folder / "policy.pt"
    path.write_bytes(to_bytes({**describe(policy), "weights": policy.state_dict(), "ema": None, "step": 0}))
    return path


@pytest.fixture
def waves(monkeypatch) -> list[list[np.ndarray]]:
    """What films are given of rollouts: of each wave the actions (n, 14) of every step."""
    found: list[list[np.ndarray]] = []

    class Recorder(VideoRecorder):
        def __call__(self, step):
            if step.t == 0:
                found.append([])
            found[-1].append(step.action.copy())
            super().__call__(step)

    monkeypatch.setattr(scripts.rollout, "VideoRecorder", Recorder)
    monkeypatch.setattr(scripts.acting, "make_vector_env", partial(make_vector_env, parallel=False))
    return found


def roll_out(checkpoint: Path, *flags: object) -> Path:
    """The results of a short rollout in this process."""
    path = checkpoint.parent / "results.json"
    short = ("--checkpoint", checkpoint, "--json", path, "--episodes", 2, "--num-envs", 1, "--horizon", 8)
    words = [str(word) for word in (*short, "--device", "cpu", *flags)]
    scripts.rollout.main(tyro.cli(scripts.rollout.Args, args=words))
    return path


def rerun(path: Path, text_encoder: str | None = None) -> list[np.ndarray]:
    """The actions (T, 14) of every episode of some results, acted again by the viewer."""
    results, folder = read_results(path), path.with_suffix("")
    folder.mkdir(exist_ok=True)
    again = Rerun(results, folder, text_encoder)
    return [again(*episode).action for _, episode in labelled(results["episodes"])]


CASES: dict[str, tuple[PolicySettings, str, str]] = {
    "default": (LATENT, TRANSFER, ""),
    "execute": (LATENT, TRANSFER, "--n-action-steps 2"),
    "ensemble": (LATENT, TRANSFER, "--temporal-ensemble-coeff 0.5 --replan-every 2"),
    "pictures": (TINY.replace(cameras=("top",)), TRANSFER, "--n-action-steps 3"),
    "bfloat16": (LATENT, TRANSFER, "--dtype bfloat16"),
    "a sample an episode": (LATENT, TRANSFER, "--sample episode --samples-per-seed 2"),
    "a sample a query": (LATENT, TRANSFER, "--sample chunk --n-action-steps 2 --samples-per-seed 3"),
    "flow matching": (family("flow-matching"), TRANSFER, "--sample episode --num-inference-steps 2"),
    "temperature": (family("flow"), TRANSFER, "--sample episode --temperature 0.3"),
    "top p": (family("autoregressive"), TRANSFER, "--sample chunk --top-p 0.5 --n-action-steps 3"),
    "words": (LATENT.replace(**WORDS), HAND_OVER, ""),
    "unseen words": (LATENT.replace(**WORDS), HAND_OVER, "--instructions unseen"),
    "no words": (LATENT.replace(**WORDS), HAND_OVER, "--instructions none"),
    "way": (LATENT.replace(**WORDS), HAND_OVER, "--variant left"),
    "instruction": (
        LATENT.replace(**WORDS),
        HAND_OVER,
        "--instruction abcdefgh --sample episode --samples-per-seed 2",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rollout_film_and_viewer_are_the_same_episode(case, waves, tmp_path):
    config, task, flags = CASES[case]
    encoder = config.text_encoder or None
    checkpoint = saved(tmp_path, config, spec(task, *(config.cameras or ())))
    trusted = ("--text-encoder", encoder) if encoder else ()
    path = roll_out(checkpoint, *flags.split(), *trusted)
    filmed = [episode for wave in waves for episode in np.stack(wave).swapaxes(0, 1)]
    again = rerun(path, encoder)
    assert len(again) == len(filmed) == len(read_results(path)["episodes"])
    for one, other in zip(filmed, again, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=2e-6 if "--samples-per-seed" in flags else 0)
    if flags:  # a setting that decides nothing would prove nothing
        waves.clear()
        roll_out(checkpoint, *trusted)
        assert np.abs(np.stack(waves[0])[:, 0] - filmed[0]).max() > 1e-6
    if "--samples-per-seed" in flags:
        assert np.abs(filmed[1] - filmed[0]).max() > 1e-6


def test_of_several_tasks_the_viewer_acts_each_again(waves, tmp_path):
    learnt = replace(spec(HAND_OVER, "top"), env_ids=(HAND_OVER, STACK), task="", env_state_dim=0)
    checkpoint = saved(tmp_path, TINY.replace(cameras=("top",), **WORDS), learnt)
    path = roll_out(checkpoint, "--task", "all", "--text-encoder", "tiny:Letters")
    for task, wave in zip(("hand_over", "stack"), (waves[:2], waves[2:]), strict=True):
        again = rerun(path.with_stem(f"results_{task}"), "tiny:Letters")
        np.testing.assert_array_equal(again, [np.stack(steps)[:, 0] for steps in wave])


def test_the_episode_that_is_acted_again_has_the_words_and_the_success_of_the_rollout(waves, tmp_path):
    checkpoint = saved(tmp_path, LATENT.replace(**WORDS), spec(HAND_OVER))
    results = read_results(roll_out(checkpoint, "--variant", "left", "--text-encoder", "tiny:Letters"))
    episode = Rerun(results, tmp_path, "tiny:Letters")(SEED)
    assert episode.instructions == (instruction_for(HAND_OVER, "left", SEED),)
    assert episode.success is results["episodes"][0]["success"]
    assert results["episodes"][0]["requested"] == "left"
    silent = read_results(roll_out(checkpoint, "--instructions", "none"))
    assert not Rerun(silent, tmp_path / "results")(SEED).instructions


def test_results_store_what_was_decided_on_the_way(waves, tmp_path):
    checkpoint = saved(tmp_path, LATENT, spec(TRANSFER))
    settings = read_results(roll_out(checkpoint, "--dtype", "auto"))["settings"]
    assert settings["dtype"] in ("float32", "bfloat16")
    assert settings["horizon"] == 8
    assert AgentSettings.from_results(settings) == AgentSettings(horizon=8, dtype=settings["dtype"])


def test_settings_that_older_results_lack_are_those_of_their_time(waves, tmp_path):
    checkpoint = saved(tmp_path, LATENT, spec(TRANSFER))
    path = roll_out(checkpoint)
    results = read_results(path)
    [default] = {len(AgentSettings.from_results(kept).sampling) for kept in ({}, results["settings"])}
    assert default == 0
    old = {name: results["settings"][name] for name in ("checkpoint", "env_id", "horizon", "dtype")}
    old |= {"execute": None, "ensemble": None, "every": 1}  # their names then
    np.testing.assert_array_equal(Rerun({"settings": old}, tmp_path)(SEED).action, np.stack(waves[0])[:, 0])
    first = {name: old[name] for name in old if name != "dtype"}  # when half of a chunk was executed by default
    executor = Rerun({"settings": first}, tmp_path)._agent.executor
    assert isinstance(executor, RecedingHorizon)
    assert executor.n_action_steps == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_action_steps", "3"),
        ("n_action_steps", True),
        ("sample", "often"),
        ("sample", ["mean"]),
        ("variant", 1),
        ("dtype", None),
    ],
)
def test_settings_that_no_rollout_has_are_named(name, value):
    assert says(refusal(lambda: AgentSettings.from_results({name: value})), name, value, "results")


def test_results_find_the_checkpoint_that_they_are_of(waves, tmp_path, caplog, monkeypatch):
    (tmp_path / "run").mkdir()
    checkpoint, new = saved(tmp_path / "run", LATENT, spec(TRANSFER)), tmp_path / "new.pt"
    monkeypatch.chdir(tmp_path)
    results = read_results(roll_out(Path("run/policy.pt")))
    monkeypatch.chdir("/")
    Rerun(results, tmp_path)  # from another working directory
    checkpoint.rename(new)
    assert says(refusal(lambda: Rerun(results, tmp_path)), "policy.pt", "results", "--checkpoint")
    assert not caplog.records
    np.testing.assert_array_equal(Rerun(results, tmp_path, moved=new)(SEED).action, np.stack(waves[0])[:, 0])
    assert not caplog.records
    saved(tmp_path / "run", LATENT.replace(latent_dim=3), spec(TRANSFER))
    Rerun(results, tmp_path)
    assert says(caplog.text, checkpoint, "rollout")


def test_results_without_a_checkpoint_are_refused(tmp_path):
    assert says(refusal(lambda: Rerun({"settings": {"env_id": TRANSFER}}, tmp_path)), "checkpoint", "env_id")


def test_the_words_on_the_page_of_teleoperation_are_those_that_the_policy_is_told(tmp_path):
    policy = load_policy(saved(tmp_path, LATENT.replace(**WORDS), spec(HAND_OVER)), "cpu", None, "tiny:Letters")
    agent = agent_for(AgentSettings(), policy, HAND_OVER)
    assert [agent.instruct(seed) for seed in range(20)] == [sample_instruction(HAND_OVER, seed) for seed in range(20)]


def test_a_policy_without_a_text_encoder_is_asked_for_nothing(tmp_path):
    policy = load_policy(saved(tmp_path, LATENT, spec(HAND_OVER)), "cpu")
    request = request_for(AgentSettings(), policy, HAND_OVER)
    assert (request.variant(0), request.instruction(0)) == ("", None)
    for asked in (AgentSettings(instruction="go"), AgentSettings(variant="left")):
        assert says(refusal(lambda asked=asked: request_for(asked, policy, HAND_OVER)), "instructions")


def test_evaluation_in_training_is_the_default_rollout_of_the_checkpoint(waves, tmp_path, monkeypatch):
    """Of a policy of one task that is told in words what to do: on the same seeds, with the same words."""
    monkeypatch.setattr("act.policies.policy.Policy.horizon", 20)
    told = [instruction_for(HAND_OVER, way, seed) for seed in range(3) for way in ("left", "right")]
    data = write_episodes(tmp_path / "data", spec=spec(HAND_OVER), instruction=told)
    out = tmp_path / "run"
    words = (
        f"--data {data} --out {out} --text-encoder tiny:Letters --text-dim 8 --chunk-size 6 --d-model 16 --n-heads 2 "
    )
    words += (
        "--ffn-dim 32 --n-encoder-layers 1 --use-env-state --batch-size 4 --steps 2 --warmup-steps 1 --val-every 2 "
    )
    words += (
        "--val-starts 8 --save-every 2 --eval-every 2 --eval-episodes 3 --num-envs 1 --wandb disabled --device cpu "
    )
    words += "--keyframe-weight 0 --ee-position-weight 0 --cameras"
    assert scripts.train.main(scripts.train.parse(words.split())) == 0
    record = next(each for each in RunFolder(out).history() if "eval/mean_jerk" in each)
    flags = "--seed 50000 --episodes 3 --text-encoder tiny:Letters --horizon 20"
    summary = read_results(roll_out(out / "last.pt", *flags.split()))["summary"]
    assert record["eval/mean_jerk"] == pytest.approx(summary["mean_jerk"], rel=1e-9)
    assert record["eval/instruction_followed"] == summary["instruction_followed"]
    silent = read_results(roll_out(out / "last.pt", *flags.split(), "--instructions", "none"))["summary"]
    assert record["eval/mean_jerk"] != pytest.approx(silent["mean_jerk"], rel=1e-6)


def test_a_task_is_one_that_the_policy_learnt():
    one, two = replace(spec(HAND_OVER)), replace(spec(HAND_OVER), env_ids=(HAND_OVER, STACK))
    place = Path("run")
    assert tasks_of(place, one, None) == tasks_of(place, one, "all", several=True) == [HAND_OVER]
    assert tasks_of(place, two, "all", several=True) == [HAND_OVER, STACK]
    assert tasks_of(place, two, "stack") == [STACK]
    for task, several, parts in ((None, True, ["--task", "all"]), (None, False, ["--task"]), ("tip", False, ["tip"])):
        line = refusal(lambda task=task, several=several: tasks_of(place, two, task, several))
        assert says(line, "run", "hand_over, stack", *parts)
        assert has(line, "all") == several, "all of them only where that can be"
