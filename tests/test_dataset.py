"""Laws of the dataset: a batch is what the files say, and the order of batches is a function of seed and number."""

import h5py
import numpy as np
import pytest
import torch
from tiny import SPEC, as_real_robot, write_episodes

import act.frames
from act.dataset import ChunkDataset, LearnFrom
from act.errors import ConfigError
from act.keyframes import keyframes
from act.policies import Batch
from act.sampling import ShuffledStarts
from demos.episode import Episode, find_episodes
from demos.kinematics import tool_positions
from demos.spec import ALOHA_JOINTS, EpisodeError

CPU = torch.device("cpu")


def flat(batch: Batch) -> dict[str, torch.Tensor]:
    seen = batch.observation
    fields = {"qpos": seen.qpos, "action": batch.action, "is_pad": batch.is_pad, **seen.images}
    return fields if seen.env_state is None else fields | {"env_state": seen.env_state}


def assert_same(one: Batch, other: Batch) -> None:
    torch.testing.assert_close(flat(one), flat(other), rtol=0, atol=0)


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("real", [False, True])
def test_every_start_is_what_the_files_say(tmp_path, cache, real):
    lengths, k = (9, 12, 5), 6
    paths = find_episodes(write_episodes(tmp_path, lengths))
    if real:
        as_real_robot(paths[1])
    dataset = ChunkDataset(tmp_path, k, val_fraction=0)
    dataset.cache(cache, CPU)
    batch = dataset.gather(dataset.train)
    assert len(dataset.train) == sum(lengths)
    row = 0
    for number, path in enumerate(paths):
        with Episode(path) as episode:
            for t in range(episode.length):
                first = max(0, t - 1) if real and number == 1 else t
                valid = min(k, episode.length - first)
                assert episode.env_state is not None
                assert batch.observation.env_state is not None
                np.testing.assert_array_equal(batch.observation.qpos[row], episode.qpos[t])
                np.testing.assert_array_equal(batch.observation.env_state[row], episode.env_state[t])
                np.testing.assert_array_equal(batch.action[row, :valid], episode.action[first : first + valid])
                assert batch.is_pad[row].tolist() == [False] * valid + [True] * (k - valid)
                for name in SPEC.cameras:
                    frame = batch.observation.images[name][row]
                    assert frame.dtype == torch.uint8
                    np.testing.assert_array_equal(frame, episode.frame(name, t))
                row += 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_same_from_memory_and_from_files(tmp_path, num_workers):
    write_episodes(tmp_path)
    cached, read = (ChunkDataset(tmp_path, 6, cameras=("wrist",)) for _ in range(2))
    cached.cache("ram", CPU)
    order = ShuffledStarts(cached.train, 4, seed=0)
    state = torch.get_rng_state()
    pairs = list(zip(cached.batches(order, 3, 9, CPU), read.batches(order, 3, 9, CPU, num_workers), strict=True))
    assert len(pairs) == 6
    for one, other in pairs:
        assert_same(one, other)
    assert torch.equal(torch.get_rng_state(), state)  # the training's random numbers are its own


@pytest.mark.parametrize("batch_size", [4, 7, 50])
def test_each_pass_takes_every_start_once_in_an_order_of_its_own(batch_size):
    starts, passes = torch.arange(100, 120), 7
    order = ShuffledStarts(starts, batch_size, seed=3)
    stream = torch.cat([order.batch(i) for i in range(-(-passes * 20 // batch_size))])[: passes * 20].view(passes, 20)
    assert all(torch.equal(one.sort().values, starts) for one in stream)
    assert len({tuple(one.tolist()) for one in stream}) == passes


def test_a_batch_is_a_function_of_seed_and_number():
    starts = torch.arange(20)
    order = ShuffledStarts(starts, 8, seed=3)
    forward = [order.batch(i) for i in range(10)]
    for i in (9, 2, 5):  # in any order, by a fresh object
        assert torch.equal(ShuffledStarts(starts, 8, seed=3).batch(i), forward[i])
    assert not torch.equal(ShuffledStarts(starts, 8, seed=4).batch(0), forward[0])


def test_an_order_outlives_the_tensor_it_was_made_from():
    """Where workers are not forked, tensors move into shared memory when they are pickled for them."""
    starts = torch.arange(100_000)
    order = ShuffledStarts(starts, 8, seed=3)
    starts.share_memory_()
    assert order.starts.tolist() == list(range(100_000))


def test_split_is_by_episode_and_by_seed(tmp_path):
    write_episodes(tmp_path, [10] * 8, seeds=[0, 0, 1, 1, 2, 2, 3, 3])
    chosen = set()
    for seed in range(6):
        dataset = ChunkDataset(tmp_path, 5, val_fraction=0.1, seed=seed)
        again = ChunkDataset(tmp_path, 5, val_fraction=0.1, seed=seed)
        assert torch.equal(dataset.val, again.val)
        assert sorted([*dataset.train.tolist(), *dataset.val.tolist()]) == list(range(80))
        first = int(dataset.val[0])
        assert dataset.val.tolist() == list(range(first, first + 20))  # two neighbours, of one seed
        assert first % 20 == 0
        chosen.add(first)
    assert len(chosen) > 1


def test_validation_can_be_left_out_and_never_takes_everything(tmp_path):
    write_episodes(tmp_path, [10, 10])
    assert len(ChunkDataset(tmp_path, 5, val_fraction=0).val) == 0
    assert len(ChunkDataset(tmp_path, 5, val_fraction=0.9).train) == 10
    assert len(ChunkDataset(find_episodes(tmp_path)[:1], 5, val_fraction=0.5).val) == 0


def test_statistics_are_those_of_the_training_split(tmp_path):
    write_episodes(tmp_path)
    dataset = ChunkDataset(tmp_path, 6)
    stats = dataset.stats()
    assert set(stats) == {"qpos", "action", "keyframe", "ee_position", "env_state"}
    told = {
        "keyframe": [keyframes(episode.action, episode.qpos, ALOHA_JOINTS) for episode in dataset.episodes],
        "ee_position": [tool_positions(episode.action) for episode in dataset.episodes],
    }
    for key, (mean, std) in stats.items():
        rows = told.get(key) or [getattr(episode, key) for episode in dataset.episodes]
        values = np.concatenate(rows)[dataset.train]
        np.testing.assert_allclose(mean, values.mean(0), atol=1e-6)
        np.testing.assert_allclose(std, values.std(0), atol=1e-6)


def test_cache_goes_where_there_is_room(tmp_path, monkeypatch):
    write_episodes(tmp_path)
    size = 75 * 3 * (24 * 32 + 16 * 24)
    for free, frames in ((2 * size, True), (2 * size - 1, False)):
        monkeypatch.setattr(act.frames, "free_memory", lambda device, free=free: free)
        dataset = ChunkDataset(tmp_path, 6)
        assert dataset.frames.nbytes == size
        words = dataset.cache("auto", CPU)
        assert (dataset.frames.images is not None) == frames
        assert ("kept in memory on cpu" in words) == frames


def test_errors_say_what_would_work(tmp_path):
    write_episodes(tmp_path / "data")

    def message(*args, **kwargs) -> str:
        with pytest.raises((ConfigError, EpisodeError)) as error:
            ChunkDataset(*args, **kwargs)
        return str(error.value).replace(str(tmp_path), "")

    assert message(tmp_path / "data", 31) == (
        "chunk_size 31 is longer than every episode in /data, the longest has 30 steps; use --chunk-size 30 or less"
    )
    assert (
        message(tmp_path / "data", 6, cameras=("top", "left")) == "camera left is not in /data; its cameras: top, wrist"
    )
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty", 6).startswith("/empty: no episodes in it")


def test_targets_are_what_the_expert_intended(tmp_path):
    [path] = find_episodes(write_episodes(tmp_path, lengths=[20]))
    with h5py.File(path, "a") as file:
        file["expert_action"] = np.full((20, 14), 0.5, np.float32)
    batch = ChunkDataset(tmp_path, 6, cameras=(), val_fraction=0.0).gather(torch.tensor([3]))
    assert (batch.action == 0.5).all()


def test_what_a_policy_did_before_it_was_corrected_is_not_learned(tmp_path):
    first, second = find_episodes(write_episodes(tmp_path, lengths=[10, 12]))
    with h5py.File(second, "a") as file:
        file["human"] = np.arange(12) >= 7  # a policy, then a person
    expected: dict[LearnFrom, list[int]] = {
        "demonstrated": [*range(10), *range(17, 22)],
        "human": list(range(17, 22)),
        "all": list(range(22)),
    }
    for learn_from, starts in expected.items():
        dataset = ChunkDataset(tmp_path, 4, val_fraction=0, learn_from=learn_from)
        assert dataset.train.tolist() == starts
    with pytest.raises(ConfigError, match=r"no step in .* to train on with --learn-from human"):
        ChunkDataset([first], 4, learn_from="human")
