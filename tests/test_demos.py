"""Laws of inverse kinematics, experts, recording and replay."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import h5py
import mujoco
import numpy as np
import pytest
from command import RECORD
from messages import refusal, says

import envs
from demos.demonstrators import Demonstrator
from demos.episode import Episode, find_episodes
from demos.ik import BimanualIK, rotation_vector
from demos.motion import RAMP, perturbations, trapezoid
from demos.record import PENDING, RecordConfig, record
from demos.replay import replay
from demos.spec import EpisodeError
from envs.aloha import ARM_JOINTS, HOME_ARM
from envs.results import evaluate
from envs.rollout import Step, make_vector_env

TASKS = list(envs.TASKS.values())
CAMERAS = {"top": (12, 16)}


@pytest.fixture(scope="module")
def ik() -> BimanualIK:
    return BimanualIK()


@pytest.mark.parametrize("arm", ["left", "right"])
def test_ik_inverts_forward_kinematics(ik, arm):
    rng = np.random.default_rng(0)
    for _ in range(20):
        joints = np.array(HOME_ARM) + rng.uniform(-0.4, 0.4, 6)  # within all ranges
        position, rotation = ik.forward(arm, joints)
        found, miss, turn = ik.solve(arm, position, rotation, joints + rng.uniform(-0.2, 0.2, 6))
        at, facing = ik.forward(arm, found)
        # Half a millimetre: the damping slows the last steps where the wrist is nearly singular.
        assert miss == pytest.approx(np.linalg.norm(at - position))
        assert miss < 5e-4
        assert turn < 5e-4
        np.testing.assert_allclose(facing, rotation, atol=1e-3)


def test_ik_respects_joint_limits_and_says_how_far_it_missed(ik):
    _, rotation = ik.forward("left", np.array(HOME_ARM))
    joints, miss, _ = ik.solve("left", np.array([2.0, 0.5, 0.3]), rotation, np.array(HOME_ARM))
    limits = np.stack([ik.model.joint(f"left_{name}").range for name in ARM_JOINTS])
    assert (joints >= limits[:, 0]).all()
    assert (joints <= limits[:, 1]).all()
    assert miss > 1.0


def test_nudge_moves_the_tool_by_about_the_offset(ik):
    before, _ = ik.forward("left", np.array(HOME_ARM))
    offset = np.array([0.01, -0.01, 0.01])
    after, _ = ik.forward("left", ik.nudge("left", np.array(HOME_ARM), offset))
    assert np.linalg.norm(after - before - offset) < 0.3 * np.linalg.norm(offset)


def test_rotation_vector_is_axis_times_angle():
    quaternion, matrix = np.zeros(4), np.zeros(9)
    vector = np.array([0.1, -0.7, 0.4])
    mujoco.mju_axisAngle2Quat(quaternion, vector / np.linalg.norm(vector), np.linalg.norm(vector))
    mujoco.mju_quat2Mat(matrix, quaternion)
    np.testing.assert_allclose(rotation_vector(matrix.reshape(3, 3)), vector, atol=1e-9)


@pytest.mark.parametrize("task", ["transfer_cube", "insertion", "lift_tray", "stack"])
def test_experts_stay_in_one_family_of_poses(task):
    """The forearm never rolls and no wrist flips: demonstrations with several modes are hard to imitate."""
    env_id = envs.env_id(task)
    env, expert = gym.make(env_id, disable_env_checker=True), Demonstrator(env_id)
    commands = np.stack([expert.commands(seed, env.reset(seed=seed)[0]["env_state"])[0] for seed in range(20)])
    assert np.abs(commands[..., [3, 10]]).max() < 0.01
    assert np.ptp(commands[:, :, [4, 11]], axis=0).max() < 0.6


@pytest.mark.parametrize("steps", [1, 10, 60])
def test_motions_end_where_they_should_at_a_speed_that_never_jumps(steps):
    way = trapezoid(steps)
    assert len(way) == steps
    assert way[-1] == pytest.approx(1)
    speed = np.diff(way, prepend=0)
    np.testing.assert_allclose(speed, speed[::-1])
    change = np.diff(speed, prepend=0, append=0)
    assert np.abs(change).max() <= max(speed) / max(1, min(steps // 2, RAMP) - 0.5) + 1e-9


def test_detours_stay_where_they_are_allowed_and_come_back():
    allowed = np.zeros(200, dtype=bool)
    allowed[30:120] = True
    offset = perturbations(np.random.default_rng(0), 0.02, allowed)
    assert not offset[~allowed].any()
    assert not offset[30].any()
    assert np.abs(offset).max() > 0.005
    assert np.abs(np.diff(offset, axis=0)).max() < 0.01  # 0.5 m/s


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize(
    ("noise", "episodes_each"),
    [(0.0, 1), (0.02, 2), *(pytest.param(noise, 10, marks=pytest.mark.slow) for noise in (0.0, 0.02))],
)
def test_experts_succeed_smoothly_within_limits(env_id, noise, episodes_each):
    """The 500-seed figures stand in the README; here, a sample. No joint moves faster than 4 rad/s."""
    venv = make_vector_env(env_id, 1)
    episodes: dict[int, list[np.ndarray]] = {}

    def watch(step: Step) -> None:
        episodes.setdefault(step.seeds[0], []).append(step.action[0])

    results = evaluate(venv, Demonstrator(env_id, noise=noise), range(900, 900 + episodes_each), watch=watch)
    assert all(result.success and result.success_published for result in results)
    space = venv.single_action_space
    assert isinstance(space, gym.spaces.Box)
    assert len(episodes) == episodes_each
    for commands in episodes.values():
        actions = np.stack(commands)
        assert (actions >= space.low - 1e-6).all()
        assert (actions <= space.high + 1e-6).all()
        assert np.abs(np.diff(np.delete(actions, [6, 13], axis=1), axis=0)).max() < 4 / 50
    venv.close()


def test_there_is_an_expert_for_every_task():
    for env_id in TASKS:
        Demonstrator(env_id)
    with pytest.raises(EpisodeError, match=r"'Juggling-v0'; .*: BimanualTransferCube-v0, "):
        Demonstrator("Juggling-v0")


def frames_and_actions(folder) -> list[tuple[int | None, bytes, bytes]]:
    episodes = [Episode(path) for path in find_episodes(folder)]
    return [(e.seed, e.frames("top").tobytes(), e.action.tobytes()) for e in episodes]


def test_recording_is_the_same_with_any_number_of_workers_and_after_a_kill(line, tmp_path):
    expected = frames_and_actions(line.data)  # by two workers
    assert [seed for seed, *_ in expected] == [5, 6, 7]

    # Killed in the middle of an episode, by a signal that nothing can catch.
    command = [sys.executable, "scripts/record.py", *RECORD, "--out", str(tmp_path / "killed"), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "episode_0.hdf5").exists():
        assert process.poll() is None
        time.sleep(0.02)
    while not list((tmp_path / "killed" / PENDING).glob(".*.part")):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = find_episodes(tmp_path / "killed")
    assert 1 <= len(whole) < 3
    assert frames_and_actions(tmp_path / "killed") == expected[: len(whole)]
    subprocess.run(command, check=True, capture_output=True)
    assert frames_and_actions(tmp_path / "killed") == expected
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [f"episode_{i}.hdf5" for i in range(3)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A folder with one demonstration, of seed 5 and without noise; tests copy what they change."""
    folder = tmp_path_factory.mktemp("plain")
    record(RecordConfig(TASKS[0], CAMERAS, first_seed=5), folder, 1)
    return folder


@pytest.fixture
def path(plain, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(plain / "episode_0.hdf5", tmp_path))


def test_failures_are_rejected_and_counted(tmp_path, monkeypatch):
    """An expert that fails on odd seeds: the folder holds even seeds only, and resuming counts the same."""
    honest = Demonstrator.commands

    def sometimes(self, seed, env_state, variant=None):
        commands, intentions = honest(self, seed, env_state, variant)
        commands[:, 13] = commands[:, 13] if seed % 2 == 0 else 1.0  # never closes its right hand
        return commands, intentions

    monkeypatch.setattr(Demonstrator, "commands", sometimes)
    config = RecordConfig(TASKS[0], CAMERAS)
    first = record(config, tmp_path, 2)
    assert (first.episodes, first.rejected) == (2, 1)
    seen = []
    second = record(config, tmp_path, 3, progress=lambda *counts: seen.append(counts))
    assert (second.episodes, second.rejected) == (3, 2)
    assert seen == [(2, 1), (2, 2), (3, 2)]
    assert [Episode(path).seed for path in find_episodes(tmp_path)] == [0, 2, 4]


def test_recording_with_other_settings_into_a_folder_is_refused(path):
    other = RecordConfig(TASKS[0], {"top": (24, 32)}, noise=0.01)
    line = refusal(lambda: record(other, path.parent, 2))
    assert says(line, path.parent, "camera top", "12x16", "24x32", "noise", 0.0, 0.01)


def test_a_hopeless_recording_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("demos.record.MAX_REJECTED_IN_A_ROW", 2)
    monkeypatch.setattr(Demonstrator, "commands", lambda *_: (np.zeros((400, 14), np.float32),) * 2)
    line = refusal(lambda: record(RecordConfig(TASKS[0], CAMERAS), tmp_path, 1))
    assert says(line, "2 seeds in a row", "0 episodes")


def test_replay_repeats_the_states_exactly(tmp_path):
    record(RecordConfig(TASKS[1], CAMERAS, noise=0.01), tmp_path, 1)
    result = replay(Episode(tmp_path / "episode_0.hdf5"))
    assert result.qpos_difference == 0.0
    assert result.success


def test_detours_are_commanded_and_the_path_is_intended(plain, line):
    direct, noisy = (Episode(folder / "episode_0.hdf5") for folder in (plain, line.data))
    assert direct.expert_action is None
    assert noisy.expert_action is not None
    np.testing.assert_array_equal(noisy.expert_action, direct.action)
    assert np.abs(noisy.action - direct.action).max() > 0.02


def test_replay_notices_a_changed_action(path):
    with h5py.File(path, "r+") as file:
        file["action"][100, 0] += 0.1  # pyright: ignore
    assert replay(Episode(path)).qpos_difference > 1e-3


def test_replay_of_a_real_robots_file_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["env_id"]
    assert says(refusal(lambda: replay(Episode(path))), path, "env_id", "replay")


def test_the_recorded_observation_is_the_one_before_the_action(plain):
    """As the environment alone answers to the recorded actions, without our loop."""
    episode = Episode(plain / "episode_0.hdf5")
    with gym.make(TASKS[0], disable_env_checker=True) as env:
        observation, _ = env.reset(seed=5)
        for t in range(episode.length):
            np.testing.assert_array_equal(episode.qpos[t], observation["qpos"])
            observation, *_ = env.step(episode.action[t])
