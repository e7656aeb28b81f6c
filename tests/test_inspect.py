"""Laws of looking at a dataset: the real script on small files, ours and the original's."""

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from command import forked
from messages import says
from PIL import Image

from demos.episode import find_episodes
from demos.robot import ALOHA
from demos.spec import EpisodeSpec
from demos.writer import EpisodeWriter

SPEC = EpisodeSpec(ALOHA, {"top": (12, 16), "angle": (8, 8)}, env_ids=("BimanualInsertion-v0",), task="insert")
inspect = partial(forked, "inspect_data.py", folder=Path())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i, steps in enumerate((5, 9, 7)):
        with EpisodeWriter(tmp_path / f"episode_{i}.hdf5", SPEC, seed=40 + i, expert="scripted") as writer:
            for t in range(steps):
                frames = {f"images/{name}": np.full((*size, 3), 20 * t, "u1") for name, size in SPEC.cameras.items()}
                qpos = rng.normal(size=14)
                writer.append({"qpos": qpos, "qvel": qpos, **frames}, qpos, reward=t % 5)
            writer.close(success=i != 1, success_published=True)
    return tmp_path


def test_table_and_pictures(folder: Path):
    done = inspect(folder, "--rows", "2")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("episode_")]
    assert [row[:3] for row in rows] == [
        ["episode_0", "5", "0.1"],
        ["episode_1", "9", "0.2"],
        ["episode_2", "7", "0.1"],
    ]
    assert [row[4:] for row in rows] == [
        [str(40 + i), "scripted", ("yes", "no", "yes")[i], "yes", "4"] for i in range(3)
    ]
    for line in (
        "3 episodes, 21 steps",
        "task:    insert (BimanualInsertion-v0)",
        "lengths: 5 to 9 steps, median 7, at 50 Hz",
        "success: 2 of 3 that tell",
        "cameras: top 12x16, angle 8x8",
    ):
        assert line in done.stdout
    assert sorted(file.name for file in (folder / "inspect").iterdir()) == ["angle.png", "joints.png", "top.png"]
    with Image.open(folder / "inspect/top.png") as sheet:
        pixels = np.asarray(sheet)
    # The last column of the first row shows the last frame of the first episode.
    assert (pixels[60:160, -150:-50] == 80).all()
    assert len(find_episodes(folder)) == 3  # the pictures are in nobody's way


def test_original_files_and_another_folder(tmp_path: Path):
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as root:
        root.attrs["sim"] = False
        for name in ("action", "observations/qpos", "observations/qvel"):
            root[name] = np.zeros((4, 14))
        root["observations/images/cam_high"] = np.zeros((4, 6, 8, 3), np.uint8)
    done = inspect(tmp_path, "--out", tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    assert "success: not told" in done.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere", "episode_0.hdf5"]
    assert sorted(file.name for file in (tmp_path / "elsewhere").iterdir()) == ["cam_high.png", "joints.png"]


def test_a_broken_file_is_one_line(folder: Path):
    path = folder / "episode_1.hdf5"
    path.write_bytes(path.read_bytes()[:5000])
    done = inspect(folder)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert says(done.stderr, "error:", path, "HDF5 file")
