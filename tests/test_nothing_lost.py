"""Laws of what is on the disk already: nothing replaces it, and what cannot be written is known before the work."""

import os
from pathlib import Path

import pytest
from test_session import make_session, run
from tiny import SPEC, write_episodes

import demos.record
from demos.episode import Episode, find_episodes
from demos.partial import move_to_free_name
from demos.record import RecordConfig, Recording, record
from demos.writer import EpisodeWriter
from envs import TASKS

CONFIG = RecordConfig(TASKS["transfer_cube"], {"top": (12, 16)})


@pytest.fixture
def quick(monkeypatch):
    """Recording without physics: an episode of one step for every seed that three does not divide evenly."""

    def recorded(self, seed: int) -> Path | None:
        path = self.folder / demos.record.PENDING / f"seed_{seed}.hdf5"
        told = demos.record._attributes(self.config) | self.origin
        with EpisodeWriter(path, self.spec, seed=seed, expert="scripted", attributes=told) as writer:
            observation, _ = self.venv.reset(seed=[0])
            seen = {name: value[0] for name, value in observation.items()} | self.venv.envs[0].unwrapped.look()
            writer.append(seen, seen["qpos"], 0.0)
            return writer.close(True, True) if seed % 3 else None

    monkeypatch.setattr(demos.record._Recorder, "__call__", recorded)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in find_episodes(folder)}


def seeds(folder: Path) -> dict[str, int | None]:
    return {path.stem: Episode(path).seed for path in find_episodes(folder)}


@pytest.mark.parametrize("deleted", [(1,), (0,), (0, 1, 2), (1, 2)])
def test_recording_goes_on_behind_what_is_there(quick, tmp_path, deleted):
    record(CONFIG, tmp_path, 4)
    assert seeds(tmp_path) == {"episode_0": 1, "episode_1": 2, "episode_2": 4, "episode_3": 5}
    for number in deleted:
        (tmp_path / f"episode_{number}.hdf5").unlink()
    kept = contents(tmp_path)
    done = record(CONFIG, tmp_path, 4)
    assert done == Recording(episodes=4, rejected=3 if len(deleted) < 3 else 4, missing=deleted)
    assert kept.items() <= contents(tmp_path).items()
    assert len(set(seeds(tmp_path).values())) == 4
    assert list(seeds(tmp_path).items())[-len(deleted) :] == [
        (f"episode_{4 + i}", seed) for i, seed in enumerate((7, 8, 10)[: len(deleted)])
    ]
    assert record(CONFIG, tmp_path, 4).episodes == 4, "and then there are enough"


@pytest.mark.parametrize("name", ["episode_000.hdf5", "episode_7.hdf5", "episode_2.hdf5"])
def test_renamed_episodes_stay_and_their_seeds_are_not_recorded_again(quick, tmp_path, name):
    record(CONFIG, tmp_path, 2)
    (tmp_path / "episode_0.hdf5").rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    kept = contents(tmp_path)
    record(CONFIG, tmp_path, 4)
    assert kept.items() <= contents(tmp_path).items()
    assert sorted(seeds(tmp_path).values()) == [1, 2, 4, 5]  # pyright: ignore[reportArgumentType]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_copy_under_another_number_is_one_more_episode(quick, tmp_path):
    record(CONFIG, tmp_path, 3)
    (tmp_path / "episode_1.hdf5").write_bytes((tmp_path / "episode_2.hdf5").read_bytes())
    record(CONFIG, tmp_path, 4)
    assert list(seeds(tmp_path).values()) == [1, 4, 4, 5]


def test_a_file_that_appears_under_the_next_number_is_not_replaced(quick, tmp_path):
    def progress(recorded: int, rejected: int) -> None:
        if recorded == 1:
            (tmp_path / "episode_1.hdf5").write_text("somebody else's")

    record(CONFIG, tmp_path, 3, progress=progress)
    assert (tmp_path / "episode_1.hdf5").read_text() == "somebody else's"
    assert [Episode(tmp_path / f"episode_{i}.hdf5").seed for i in (0, 2, 3)] == [1, 2, 4]


def test_a_person_s_episode_is_kept_where_its_name_is_taken_meanwhile(tmp_path):
    session = make_session(tmp_path)
    taken = tmp_path / "episode_0.hdf5"

    def at_step_3(show):
        def wrapped(step, writer):
            if session.t == 3:
                taken.write_text("somebody else's")
            return show(step, writer)

        return wrapped

    session._take_down = at_step_3(session._take_down)
    run(session, ("waiting", "start"), (6, "save"), ("waiting", "start"), (3, "save"), ("waiting", "quit"))
    assert taken.read_text() == "somebody else's"
    assert [Episode(tmp_path / f"episode_{i}.hdf5").length for i in (1, 2)] == [6, 3]


def test_a_session_goes_on_behind_the_highest_number_and_seed(tmp_path):
    spec = make_session(tmp_path / "other").spec
    write_episodes(tmp_path / "data", (3, 3, 3), seeds=(50, 90, 70), spec=spec)
    (tmp_path / "data" / "episode_0.hdf5").unlink()
    session = make_session(tmp_path / "data")
    assert (session._number, session.saved, session.seed) == (3, 2, 91)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_gets_a_free_name_and_replaces_none(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    (tmp_path / "episode_2.hdf5").write_text("old")
    (tmp_path / "plain.hdf5").write_text("old")
    for i, expected in enumerate(("episode_3.hdf5", "episode_4.hdf5")):
        source = tmp_path / "source"
        source.write_text(f"new {i}")
        assert move_to_free_name(source, tmp_path / "episode_2.hdf5") == tmp_path / expected
        assert (tmp_path / expected).read_text() == f"new {i}"
        assert not source.exists()
    source.write_text("new")
    with pytest.raises(FileExistsError):
        move_to_free_name(source, tmp_path / "plain.hdf5")
    assert [path.read_text() for path in (tmp_path / "episode_2.hdf5", tmp_path / "plain.hdf5", source)] == [
        "old",
        "old",
        "new",
    ]


def test_what_a_kill_left_between_two_names_of_a_file_is_not_written_into(tmp_path):
    """A hidden partial file may be a second name of an episode that somebody renamed since."""
    write_episodes(tmp_path, (3,))
    moved = (tmp_path / "episode_0.hdf5").rename(tmp_path / "episode_7.hdf5")
    os.link(moved, tmp_path / ".episode_0.hdf5.part")
    before = moved.read_bytes()
    EpisodeWriter(tmp_path / "episode_0.hdf5", SPEC, seed=0, expert="test").abort()
    assert moved.read_bytes() == before
