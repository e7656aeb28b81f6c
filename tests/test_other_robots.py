"""A robot that this toolkit does not know: recorded, trained on and rolled out, with relative actions, fewer than its
joints. The same functions run the environments of scripts/experiments/other_robots, whose packages are not
needed here."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import h5py
import numpy as np
import pytest
from command import forked

from act.chunking import TemporalEnsemble, default_executor
from demos.episode import Episode
from demos.hindsight import active_steps, keyframes
from demos.robot import Arm, Chain, Link, Robot
from demos.spec import EpisodeSpec
from scripts.train import parse

FOLDER = Path(__file__).parents[1] / "scripts" / "experiments" / "other_robots"
SLIDES = Chain((Link(0, "x", slides=True), Link(1, "y", slides=True)))
ROBOT = Robot(("x", "y", "wrist", "gripper"), (Arm("arm", (0, 1), 3, SLIDES),), 10.0)
SPEC = EpisodeSpec(ROBOT, {"top": (24, 32)}, action_semantics="relative_ee", action_names=("dx", "dy", "gripper"))


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Plane(gym.Env):
    """A point that moves by a tenth of its action, and closes its gripper over a white square."""

    observation_space = gym.spaces.Dict({name: gym.spaces.Box(-9, 9, (4,), np.float32) for name in ("qpos", "qvel")})
    action_space = gym.spaces.Box(-1, 1, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.object, self.hand, self.opening, self._t = self.np_random.uniform(0.2, 0.8, 2), np.full(2, 0.5), 1.0, 0
        return self._observation(), {}

    def step(self, action):
        self.hand, self.opening, self._t = self.hand + action[:2] / 10, float(action[2]), self._t + 1
        held = bool(self.opening < 0 and np.abs(self.hand - self.object).max() < 0.05)
        info = {"is_success": held, "is_success_published": held}
        return self._observation(), float(held), False, self._t >= 30, info

    def render_cameras(self):
        image = np.zeros((24, 32, 3), np.uint8)
        row, column = (self.object * (24, 32)).astype(int)
        image[row - 2 : row + 2, column - 2 : column + 2] = 255
        return {"images/top": image}

    def _observation(self):
        return {"qpos": np.array([*self.hand, 0.0, self.opening], np.float32), "qvel": np.zeros(4, np.float32)}


class Expert:
    def __init__(self, env: Plane, seed: int, noise: float):
        self._env, self._rng, self._noise = env, np.random.default_rng(seed), noise

    def __call__(self):
        way = self._env.object - self._env.hand
        intended = np.array([*np.clip(5 * way, -0.5, 0.5), -1.0 if np.abs(way).max() < 0.02 else 1.0])
        return intended + [*self._rng.normal(size=2) * self._noise / 10, 0.0], intended


WORLD = SimpleNamespace(make=Plane, Expert=Expert, SPEC=SPEC)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plane") / "data"
    run = load("run")
    run.record(run.Args("record", "fetch", out=folder, episodes=3), WORLD)
    return folder


def test_what_is_recorded_says_what_the_robot_is_and_what_its_actions_mean(recorded):
    episode = Episode(recorded / "episode_0.hdf5")
    assert episode.spec == SPEC
    assert episode.qpos.shape[1] == 4
    assert episode.action.shape[1] == 3
    moved = np.diff(episode.qpos[:, :2], axis=0)
    np.testing.assert_allclose(moved, episode.action[:-1, :2] / 10, atol=1e-6)  # observation at t, action from t on


def test_without_its_description_a_file_keeps_its_numbers(recorded, tmp_path):
    load("without_description").main(recorded, tmp_path / "bare")
    with h5py.File(tmp_path / "bare" / "episode_0.hdf5") as bare, h5py.File(recorded / "episode_0.hdf5") as file:
        assert not {"robot", "joint_names", "action_semantics"} & set(bare.attrs)
        np.testing.assert_array_equal(bare["action"], file["action"])


def test_a_policy_of_an_unknown_robot_trains_and_acts(recorded, tmp_path, capsys):
    flags = "--steps 2 --batch-size 2 --chunk-size 4 --d-model 16 --ffn-dim 16 --keypoints 2 --wandb disabled"
    trained = forked("train.py", "--data", recorded, "--out", tmp_path / "run", *flags.split(), folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = load("run")
    args = run.Args("rollout", "fetch", checkpoint=tmp_path / "run", episodes=3, num_envs=2, json=tmp_path / "a.json")
    run.roll_out(args, WORLD)
    rows = json.loads((tmp_path / "a.json").read_text())["episodes"]
    assert [row["seed"] for row in rows] == [100_000, 100_001, 100_002]
    assert f"success {sum(row['success'] for row in rows)} of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("executor", "corrects"),
    [(default_executor(20, relative=True), True), (TemporalEnsemble(20, replan_every=2), False)],
)
def test_relative_actions_correct_a_push_within_half_a_chunk(executor, corrects):
    executor.reset(1)
    error, pushed_at, decay = 0.0, 30, 0.7
    for t in range(pushed_at + 10):
        error += 1.0 if t == pushed_at else 0.0
        chunk = -error * (1 - decay) * decay ** np.arange(20)  # leads back, as far as the policy sees now
        error += executor.step(chunk[None, :, None] if executor.needs_chunk else None).item()
    assert (abs(error) < 0.1) == corrects


def test_fingers_that_overshoot_before_they_rest_leave_the_keyframe_at_the_grasp():
    opening = np.array([0.0, 0.9, 1.04, 1.01, *[1.0] * 15, 0.6, 0.45, *[0.45] * 10], np.float32)  # closes at step 18
    x = np.linspace(0, 1, len(opening), dtype=np.float32)
    qpos = np.stack([x, 0 * x, 0 * x, opening], axis=1)
    action = np.stack([0.1 * np.ones_like(x), 0 * x, np.where(np.arange(len(x)) < 18, 1, -1)], axis=1)
    found = keyframes(action, qpos, SPEC)
    np.testing.assert_allclose(found[3:18, 0], x[19], atol=0.04)
    np.testing.assert_allclose(found[22:, 0], x[-1])


def test_steps_in_which_fingers_still_follow_a_command_that_was_a_step_are_not_idle():
    robot = Robot(("a", "gripper"), (Arm("arm", (0,), 1),), 20.0)
    spec = EpisodeSpec(robot, {})
    closed = np.where(np.arange(60) < 20, -1.0, 1.0)  # larger is closed
    opening = np.interp(np.arange(60), [0, 20, 32, 59], [0.08, 0.08, 0.02, 0.02])
    arm = np.interp(np.arange(60), [0, 10, 50, 59], [0.0, 1.0, 1.0, 2.0])  # rests while the fingers close, and on
    kept = active_steps(np.stack([arm, closed], axis=1), np.stack([arm, opening], axis=1), spec, keep_end=5)
    assert kept[20:32].all()
    assert not kept[38:48].any()


def test_a_chunk_of_a_preset_lasts_as_long_on_a_robot_of_another_rate(recorded, tmp_path):
    data, out = ["--data", str(recorded)], ["--out", str(tmp_path / "run")]  # 10 Hz
    assert parse([*data, *out]).policy.chunk_size == 10
    assert parse([*data, *out, "--preset", "paper"]).policy.chunk_size == 20
    assert parse([*data, *out, "--chunk-size", "7"]).policy.chunk_size == 7
    assert parse(["--data", "nowhere", *out]).policy.chunk_size == 50
