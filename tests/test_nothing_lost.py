"""Laws of what is on the disk already: nothing replaces it, and what cannot be written is known before the work."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from messages import refusal, says
from test_session import make_session, run
from tiny import SPEC, write_episodes

import demos.record
from act.errors import ConfigError
from demos.atomic_file import move_to_free_name
from demos.episode import Episode, find_episodes
from demos.folder_lock import LOCK, lock_folder
from demos.record import RecordConfig, Recording, record
from demos.spec import EpisodeError
from demos.writer import EpisodeWriter
from envs import TASKS
from envs.rollout import Step
from envs.video import VideoRecorder
from scripts import bench, compare, experiment, inspect_data, latent_plot, quickstart, replay, rollout, teleop, train
from scripts import record as record_script
from scripts.outputs import check_file, check_folder, keep, write_file

CONFIG = RecordConfig(TASKS["transfer_cube"], {"top": (12, 16)})


@pytest.fixture
def quick(monkeypatch):
    """Recording without physics: an episode of one step for every seed that three does not divide evenly."""

    def recorded(self, seed: int) -> Path | None:
        path = self.folder / demos.record.PENDING / f"seed_{seed}.hdf5"
        told = self.config.attributes | self.provenance
        with EpisodeWriter(path, self.spec, seed=seed, expert="scripted", attributes=told) as writer:
            observation, _ = self.venv.reset(seed=[0])
            seen = {name: value[0] for name, value in observation.items()} | self.venv.envs[
                0
            ].unwrapped.render_cameras()
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

    session._append = at_step_3(session._append)
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


def test_one_writer_in_a_folder_at_a_time(tmp_path):
    folder = tmp_path / "data"
    with lock_folder(folder, "recording"):
        line = refusal(lambda: lock_folder(folder, "recording").__enter__())
        assert says(line, "another recording", folder, f"process {os.getpid()}")
        (folder / "episode_0.hdf5").touch()
    assert [path.name for path in folder.iterdir()] == ["episode_0.hdf5"]
    with lock_folder(tmp_path / "empty", "recording"):
        pass
    assert not (tmp_path / "empty").exists(), "made for the lock alone"


def test_a_killed_process_holds_no_lock_though_its_children_live(tmp_path):
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom demos.folder_lock import lock_folder\n"
        "with lock_folder(Path(sys.argv[1]), 'recording'):\n"
        "    child = os.fork()\n"
        "    if child: print(child, flush=True)\n"
        "    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(EpisodeError, match="another recording is running"), lock_folder(tmp_path, "recording"):
            pass
        process.kill()
        process.wait()
        assert (tmp_path / LOCK).exists()
        with lock_folder(tmp_path, "recording"):
            pass
    finally:
        process.stdout.close()
        os.kill(child, signal.SIGKILL)
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("refusal", ["no locks", "no file"])
def test_where_there_are_no_locks_work_goes_on(tmp_path, monkeypatch, refusal):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl if refusal == "no locks" else os, "flock" if refusal == "no locks" else "open", refuse)
    entered = []
    with lock_folder(tmp_path, "recording"), lock_folder(tmp_path, "recording"):
        entered.append("both")
    assert entered == ["both"]


def test_a_recording_and_a_training_keep_others_out(tmp_path):
    data = write_episodes(tmp_path / "data")
    with lock_folder(data, "recording"):
        with pytest.raises(EpisodeError, match="another recording is running"):
            record_script.main(record_script.Args("transfer_cube", data))
        with pytest.raises(EpisodeError, match="another recording is running"):
            teleop.main(teleop.Args(data, "transfer_cube"))
    with lock_folder(tmp_path / "run", "training"):
        words = ["--data", str(data), "--out", str(tmp_path / "run"), "--preset", "cpu", "--resume"]
        with pytest.raises(EpisodeError, match="another training is running"):
            train.main(train.parse(words))


def refused(check, flag: str, path: Path) -> str:
    return refusal(lambda: check(flag, path))


def test_an_output_that_cannot_be_written_is_known_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    Path("broken").symlink_to("nowhere")
    name = "x" * 300
    assert says(refused(check_folder, "--out", Path("file")), "--out file", "is a file")
    assert says(refused(check_folder, "--out", Path("file/a/b")), "--out file/a/b", "file is a file")
    assert says(refused(check_folder, "--out", Path("broken")), "--out broken", "link")
    assert says(refused(check_folder, "--out", Path(name)), f"--out {name}", "file name too long")
    assert says(refused(check_file, "--json", Path("folder")), "--json folder", "is a folder", "folder/results.json")
    assert says(refused(check_file, "--json", Path("file/x")), "--json file/x", "not a directory")
    assert says(refused(check_file, "--json", Path(name)), f"--json {name}", "file name too long")
    for good in (Path("file"), Path("new"), Path("new/deep/er"), Path("/dev/null"), None):
        check_file("--json", good)
    for good in (Path("folder"), Path("new/deep"), Path(), None):
        check_folder("--out", good)
    assert Path("file").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["broken", "file", "folder"], "nothing is left"


def test_a_folder_that_may_not_be_written_is_known_though_permissions_do_not_tell(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    reason = "read-only file system"
    assert says(refused(check_file, "--json", tmp_path / "x.json"), f"--json {tmp_path}/x.json", reason)
    assert says(refused(check_folder, "--out", tmp_path / "new"), f"--out {tmp_path}/new", reason)


def mains(tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Scripts, each with an output that is a file where a folder is needed, or the other way round."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    data, nothing = write_episodes(tmp_path / "data", (3,)), tmp_path / "nothing"
    words = ["--data", str(data), "--out", str(file), "--preset", "cpu"]
    return {
        "record": lambda: record_script.main(record_script.Args("transfer_cube", file)),
        "teleop": lambda: teleop.main(teleop.Args(file, "transfer_cube")),
        "train": lambda: train.main(train.parse(words)),
        "rollout": lambda: rollout.main(rollout.Args(nothing, json=folder)),
        "replay": lambda: replay.main(replay.Args(nothing, folder)),
        "inspect": lambda: inspect_data.main(inspect_data.Args(data, file)),
        "latent_plot": lambda: latent_plot.main(latent_plot.Args(nothing, nothing, folder)),
        "compare": lambda: compare.main(compare.Args((nothing,), folder)),
        "experiment": lambda: experiment.main(experiment.Args("study", file)),
        "quickstart": lambda: quickstart.main(quickstart.Args(out=file)),
        "bench": lambda: bench.main(bench.Args(json=folder)),
    }


def test_every_script_knows_its_output_before_it_begins(tmp_path):
    for main in mains(tmp_path).values():
        with pytest.raises(ConfigError, match=r"^--[a-z-]+ .*/(file|folder) (is a folder|cannot be written)"):
            main()


def test_a_table_needs_no_folder_for_pictures(tmp_path, capsys):
    data = write_episodes(tmp_path / "data", (3,))
    (data / "inspect").touch()
    with pytest.raises(ConfigError, match=r"--out .*/inspect cannot be written.*, such as --out inspect$"):
        inspect_data.main(inspect_data.Args(data))
    assert "1 episodes, 3 steps" in capsys.readouterr().out


def test_results_are_kept_elsewhere_where_they_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text("an earlier one")
    Path("gone").touch()
    for i in (1, 2):
        assert keep(Path("gone/r.json"), lambda path: path.write_text("results")) == (
            f"{tmp_path}/gone/r.json cannot be written: file exists; it is in {tmp_path}/r_{i}.json instead"
        ).replace(f"{tmp_path}/gone", "gone")
        assert Path(f"r_{i}.json").read_text() == "results"
    assert Path("r.json").read_text() == "an earlier one"


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    path, link = tmp_path / "r.json", tmp_path / "link.json"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)

    def fail(partial: Path) -> None:
        partial.write_text("ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space"):
        write_file(link, fail)
    assert path.read_text() == "old"
    write_file(link, lambda partial: partial.write_text("new"))
    assert (path.read_text(), path.stat().st_mode & 0o777, link.is_symlink()) == ("new", 0o600, True)
    assert {each.name for each in tmp_path.iterdir()} == {"r.json", "link.json"}
    write_file(Path("/dev/null"), lambda device: device.write_text("new"))
    assert Path("/dev/null").is_char_device()


class _Pictures:
    """Stands for environments: one grey frame each."""

    def render(self) -> list[np.ndarray]:
        return [np.full((16, 16, 3), 128, np.uint8)] * 2


def test_a_film_that_cannot_be_written_does_not_end_the_rollout(tmp_path, capsys):
    (tmp_path / "file").touch()
    paths = {1: tmp_path / "file" / "1.mp4", 2: tmp_path / "2.mp4"}
    film = VideoRecorder(_Pictures(), paths)  # pyright: ignore[reportArgumentType]
    for t in range(4):
        film(Step(t, (1, 2), {}, np.zeros((2, 14)), np.zeros(2), {}, last=t == 3))
    assert paths[2].stat().st_size > 0
    assert "1.mp4 cannot be written: " in capsys.readouterr().err
