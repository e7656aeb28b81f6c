"""Laws of the episode writer: nothing half-written looks whole, nothing that does not fit the spec is written."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from messages import has, refusal, says
from test_episode import SPEC, steps, write

from demos.episode import Episode, find_episodes
from demos.writer import EpisodeWriter

WRITER = """
import sys
import numpy as np
from demos.spec import ALOHA_JOINTS, EpisodeSpec
from demos.writer import EpisodeWriter
spec, z = EpisodeSpec(ALOHA_JOINTS, {"top": (12, 16)}), np.zeros(14, np.float32)
frame = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
for i in range(100_000):
    with EpisodeWriter(f"{sys.argv[1]}/episode_{i}.hdf5", spec, seed=i, expert="none") as writer:
        for t in range(20):
            writer.append({"qpos": z, "qvel": z, "images/top": frame}, z, 0.0)
            if i == int(sys.argv[2]) and t == 10:
                print("here", flush=True)
                sys.stdin.read()
        writer.close(True, True)
        print(i, flush=True)
"""


def test_kill_in_the_middle_of_an_episode(tmp_path: Path):
    command = [sys.executable, "-c", WRITER, str(tmp_path), "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "here":
            assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert sorted(file.name for file in tmp_path.iterdir()) == [".episode_1.hdf5.part", "episode_0.hdf5"]
    assert find_episodes(tmp_path) == [tmp_path / "episode_0.hdf5"]
    assert Episode(tmp_path / "episode_0.hdf5").length == 20


@pytest.mark.parametrize("delay", [0.03, 0.07])
def test_kill_at_any_moment(tmp_path: Path, delay: float):
    command = [sys.executable, "-c", WRITER, str(tmp_path), "-1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
    for whole in find_episodes(tmp_path):
        assert Episode(whole).frames("top").shape == (20, 12, 16, 3)


def test_an_exception_leaves_nothing(tmp_path: Path):
    with suppress(KeyboardInterrupt), EpisodeWriter(tmp_path / "episode_0.hdf5", SPEC, seed=0, expert="x") as writer:
        writer.append(*next(steps()))
        assert (tmp_path / ".episode_0.hdf5.part").exists()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_no_space_left(tmp_path: Path):
    """Writing really fails: the partial file is a device that is always full."""
    (tmp_path / ".episode_0.hdf5.part").symlink_to("/dev/full")
    writer = EpisodeWriter(tmp_path / "episode_0.hdf5", SPEC, seed=0, expert="x")
    line = refusal(lambda: writer.append(*next(steps())))
    assert says(line, tmp_path / "episode_0.hdf5", "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "data").touch()
    path = tmp_path / "data/episode_0.hdf5"
    line = refusal(lambda: EpisodeWriter(path, SPEC, seed=0, expert="x"))
    assert says(line, path)
    assert has(line, "Not a directory") or has(line, "File exists")


def test_writer_refuses(tmp_path: Path):
    path = write(tmp_path / "episode_0.hdf5")

    def refused(change: dict) -> str:
        observation, action, reward = next(steps())
        with EpisodeWriter(tmp_path / "episode_1.hdf5", SPEC, seed=0, expert="x") as writer:
            step = {**observation, **change}
            return refusal(lambda: writer.append(step, change.get("action", action), reward))

    assert says(refusal(lambda: EpisodeWriter(path, SPEC, seed=0, expert="x")), path, "exists")
    with EpisodeWriter(tmp_path / "episode_1.hdf5", SPEC, seed=0, expert="x") as writer:
        assert says(refusal(lambda: writer.close(True, True)), "no steps")
    new = tmp_path / "episode_1.hdf5"
    assert says(refused({"qvel": np.zeros(3)}), new, "step 0", "qvel", "(3,)", "(14,)")
    assert says(refused({"action": np.full(14, np.nan)}), new, "step 0", "action", "NaN", "(14,)")
    wrong = {"images/top": np.zeros((12, 16, 3), np.float32)}
    assert says(refused(wrong), new, "step 0", "camera top", "uint8", "float32", "(12, 16, 3)")
    assert [file.name for file in tmp_path.iterdir()] == ["episode_0.hdf5"]
