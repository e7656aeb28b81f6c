"""Laws of what is learnt from an episode: everything as recorded, or else it is counted and said."""

from dataclasses import replace

import numpy as np
import pytest
from test_grippers import GRIPPER, demonstration
from tiny import SPEC, write_episodes

from act.dataset import ChunkDataset
from act.targets import describe_changes, targets_of
from act.train_config import LearnFrom
from demos.episode import Episode
from demos.writer import EpisodeWriter
from scripts.inspect_data import changes


def write(path, action, qpos, human=None, intended=None) -> Episode:
    spec = replace(SPEC, cameras={}, env_state_dim=0)
    with EpisodeWriter(path, spec, seed=0, expert="test") as writer:
        for t in range(len(action)):
            person = None if human is None else bool(human[t])
            meant = None if intended is None else intended[t]
            writer.append({"qpos": qpos[t], "qvel": qpos[t]}, action[t], 0.0, meant, person)
        writer.close(True, True)
    return Episode(path)


def described(
    *episodes: Episode,
    learn_from: LearnFrom = "demonstrated",
    drop_idle_steps: bool = False,
    drop_failed_grasps: bool = False,
) -> str:
    targets = [
        targets_of(each, 11, drop_idle_steps=drop_idle_steps, drop_failed_grasps=drop_failed_grasps)
        for each in episodes
    ]
    return describe_changes(episodes, targets, learn_from)


def moving(steps: int) -> np.ndarray:
    return np.sin(np.arange(steps)[:, None] / 9 + np.arange(14))


def test_where_nothing_is_changed_that_is_said(tmp_path):
    (path,) = write_episodes(tmp_path, lengths=(20,)).iterdir()
    assert (
        described(Episode(path), drop_idle_steps=True, drop_failed_grasps=True) == "all steps and commands as recorded"
    )


def test_failed_grasps_and_idle_steps_are_counted(tmp_path):
    action, qpos = demonstration(0.0, 0.5, away=0.1)
    failed = write(tmp_path / "a.hdf5", action, qpos)
    still = np.concatenate([moving(60), np.repeat(moving(60)[-1:], 200, axis=0)])
    paused = write(tmp_path / "b.hdf5", still, still)
    said = described(failed, paused, drop_failed_grasps=True)
    assert said == "1 failed grasps removed (in 1 of 2 episodes)"
    said = described(failed, paused, drop_idle_steps=True)
    assert said.endswith("of 420 steps left out as idle")
    idle = int(said.split()[0])
    assert idle == sum(
        e.length - len(targets_of(e, 11, drop_idle_steps=True, drop_failed_grasps=False).kept) for e in (failed, paused)
    )
    assert idle >= 180
    assert described(failed, paused) == "all steps and commands as recorded"


def test_steps_that_are_not_chosen_and_intentions_are_counted(tmp_path):
    episode = write(tmp_path / "a.hdf5", moving(30), moving(30), human=np.arange(30) >= 12, intended=moving(30) + 0.1)
    assert described(episode) == "12 steps left out by --learn-from demonstrated; intended commands in 1 of 1 episodes"
    assert described(episode, learn_from="all") == "intended commands in 1 of 1 episodes"


def test_joints_that_hardly_move_are_named(tmp_path):
    action = moving(30)
    action[:, [2, GRIPPER]] = 0.5, 1.0
    action[3, 2] += 0.01
    said = described(write(tmp_path / "a.hdf5", action, action))
    assert said == "constant, as they hardly move: left_elbow, right_gripper"


def test_training_and_inspection_say_the_same(tmp_path):
    write_episodes(tmp_path, lengths=(60, 70))
    dataset = ChunkDataset(tmp_path, 50, drop_idle_steps=True, drop_failed_grasps=True)
    assert changes([Episode(path) for path in dataset.paths]) == dataset.changes


@pytest.mark.parametrize("lengths", [(1, 20), (2, 3, 4, 20), (1, 1, 6)])
def test_very_short_episodes_are_learnt_from(tmp_path, lengths):
    write_episodes(tmp_path, lengths=lengths)
    dataset = ChunkDataset(tmp_path, 6, val_fraction=0.0, drop_idle_steps=True, drop_failed_grasps=True)
    assert len(dataset.train) == sum(lengths)
    batch = dataset.gather(dataset.train[: lengths[0]])
    assert batch.is_pad[-1].sum() == 5
    assert batch.action.isfinite().all()
