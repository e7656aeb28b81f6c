"""Laws of other recorders' files: what nothing is lost by is read, and what was assumed is said once."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from messages import has, refusal, says
from PIL import Image
from test_episode import SPEC, STEPS, write, write_original

from act.dataset import ChunkDataset
from act.train_config import TrainConfig
from demos import hdf5_checks
from demos.episode import Episode, check_dataset, find_all_episodes, find_episodes
from demos.notes import dataset_notes
from demos.spec import JpegColors
from scripts import inspect_data, train, view

RED = np.zeros((16, 24, 3), np.uint8) + np.array([200, 30, 10], np.uint8)
ASSUMED_FPS = ("fps", 50)
NO_QVEL = ("no qvel",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "episode_0.hdf5"
    write_original(path)
    return path


def change(path: Path, **values: Any) -> Path:
    """Puts datasets in a file, or takes them out (None); "__" in a name stands for "/"."""
    with h5py.File(path, "r+") as root:
        for name, value in values.items():
            name = name.replace("__", "/")
            if name in root:
                del root[name]
            if value is not None:
                root[name] = value
    return path


def attributes(path: Path, **values: Any) -> Path:
    with h5py.File(path, "r+") as root:
        root.attrs.update(values)
    return path


def noted(episode: Episode | list[str], *parts: object) -> bool:
    """Whether one of the notes has all of these parts."""
    notes = episode.notes if isinstance(episode, Episode) else episode
    return any(has(note, *parts) for note in notes)


# Arrays


def test_qvel_may_be_missing(path: Path, tmp_path: Path):
    assert Episode(change(path, observations__qvel=None)).qvel is None
    fps, qvel = Episode(path).notes
    assert has(fps, *ASSUMED_FPS)
    assert has(qvel, *NO_QVEL)
    assert len(ChunkDataset([path], 3).train) == STEPS
    ours = change(write(tmp_path / "episode_1.hdf5"), observations__qvel=None)
    assert (Episode(ours).qvel, Episode(ours).notes) == (None, ())


@pytest.mark.parametrize("name", ["observations/qvel", "observations/effort", "reward", "observations/env_state"])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((STEPS, 14), np.nan), "NaN"),
        (np.zeros((STEPS + 1, 3, 2)), "shape"),
        (np.array([b"x"] * STEPS), "dtype |S1"),
        (np.zeros((0, 14)), "shape"),
    ],
)
def test_what_nothing_learns_from_is_left_out_where_it_does_not_fit(path: Path, name: str, values, reason: str):
    values = values[:, 0] if name == "reward" and values.shape == (STEPS, 14) else values
    episode = Episode(change(path, **{name.replace("/", "__"): values}))
    assert getattr(episode, name.rpartition("/")[2]) is None
    assert noted(episode, name, reason, "left out")


def test_our_own_effort_and_reward_must_fit(tmp_path: Path):
    ours = change(write(tmp_path / "episode_0.hdf5"), reward=np.full(STEPS, np.nan, np.float32))
    assert says(refusal(lambda: Episode(ours)), ours, "/reward", "NaN", "step 0")


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "i8", ">i2", "u1"])
def test_numbers_may_be_of_any_width_and_byte_order(path: Path, dtype: str):
    values = np.arange(STEPS * 14).reshape(STEPS, 14).astype(dtype)
    episode = Episode(change(path, action=values, observations__qpos=values, reward=np.arange(STEPS)))
    assert episode.action.dtype == episode.qpos.dtype == np.float32
    np.testing.assert_array_equal(episode.action, values.astype(np.float32))
    np.testing.assert_array_equal(episode.reward, np.arange(STEPS, dtype=np.float32))


def test_actions_and_joints_must_be_sound_in_every_file(path: Path):
    """Also those of which much is learnt: the line says what is in the file instead, and where a base goes."""
    values = np.zeros((STEPS, 14))
    values[2] = np.nan
    assert says(refusal(lambda: Episode(change(path, action=values))), path, "/action", "NaN", "step 2")
    line = refusal(lambda: Episode(change(path, action=None, actions=np.zeros((STEPS, 14)))))
    assert says(line, path, "/action", "missing", "actions", "observations/images", "observations/qpos")


def test_base_actions_are_shown_and_other_things_named(path: Path):
    base = np.ones((STEPS, 2))
    episode = Episode(change(path, base_action=base, observations__tactile=base, compress_len=base))
    np.testing.assert_array_equal(episode.base_action, base)
    assert noted(episode, "base_action", 2)
    assert noted(episode, "observations/tactile")
    assert not noted(episode, "compress_len")


# Attributes


def test_attributes_are_taken_for_what_they_mean(path: Path):
    attributes(path, fps="49.97 Hz", seed=-1, success="True", task=b"tidy up", sim="yes", expert=["me"])
    episode = Episode(path)
    assert (episode.spec.fps, episode.seed, episode.success, episode.sim) == (49.97, None, True, True)
    assert (episode.spec.task, episode.expert) == ("tidy up", "me")
    assert episode.notes == ()
    attributes(path, fps=np.array([25.0], np.float32), seed="7", success=np.float64(0))
    assert (Episode(path).spec.fps, Episode(path).seed, Episode(path).success) == (25.0, 7, False)


def test_attributes_may_be_scalar_datasets(path: Path):
    with h5py.File(path, "r+") as root:
        del root.attrs["sim"]
    change(path, fps=np.int64(30), sim=np.array([1]), seed=np.uint8(4), success=np.bool_(True), task="tidy")
    episode = Episode(path)
    assert (episode.spec.fps, episode.sim, episode.seed, episode.success) == (30.0, True, 4, True)
    assert (episode.spec.task, episode.notes) == ("tidy", ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps", "fast"),
        ("fps", -50),
        ("seed", "x"),
        ("seed", np.inf),
        ("success", "perhaps"),
        ("task", 7),
        ("env_id", np.zeros(3)),
        ("cameras", "top"),
        ("joint_names", [1, 2]),
        ("compress", "jpg"),
        ("instruction", 3),
    ],
)
def test_attributes_that_mean_nothing_are_left_out_with_a_note(path: Path, name: str, value):
    episode = Episode(attributes(path, fps=50.0) if name != "fps" else path)
    spec = episode.spec
    changed = Episode(attributes(path, **{name: value}))
    assert changed.spec == spec
    assert noted(changed, "attribute", name)


def test_sim_must_be_understood(path: Path):
    """It says which observation an action belongs to."""
    assert says(refusal(lambda: Episode(attributes(path, sim="maybe"))), path, "sim", "maybe", "true or false")


# Instructions


@pytest.mark.parametrize("where", ["/", "observations"])
@pytest.mark.parametrize("kind", ["attribute", "dataset"])
@pytest.mark.parametrize(
    "value", ["pick it up", b"pick it up", ["pick it up"], [[b"pick it up"]], ["pick it up"] * STEPS]
)
def test_language_raw_is_the_instruction(path: Path, where: str, kind: str, value):
    with h5py.File(path, "r+") as root:
        group = root[where]
        assert isinstance(group, h5py.Group)
        if kind == "attribute":
            group.attrs["language_raw"] = value
        else:
            group["language_raw"] = value
    episode = Episode(path)
    assert episode.instructions == ("pick it up",)
    assert noted(episode, "language_raw")
    assert len(ChunkDataset([path], 3, instructed=True).sentences) == 1
    attributes(path, instruction="put it down")
    assert Episode(path).instructions == ("put it down",)


def test_sub_tasks_are_no_phrasings(path: Path):
    change(path, language_instruction=[f"step {t}" for t in range(STEPS)])
    assert Episode(path).instructions == ()
    assert noted(Episode(path), "language_instruction", "left out")


# Frames


def jpeg(frame: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def images_of(layout: str) -> Any:
    """STEPS frames that get darker, encoded as the originals do: RGB in the place of BGR."""
    frames = [np.ascontiguousarray((RED // (1 + t))[..., ::-1]) for t in range(STEPS)]
    rows = [jpeg(frame, "PNG" if layout == "png" else "JPEG") for frame in frames]
    width = max(map(len, rows)) + 40
    padded = np.stack([np.frombuffer(row.ljust(width, b"\0"), np.uint8) for row in rows])
    if layout in ("variable", "variable, a column"):
        values = np.empty(STEPS, object)
        values[:] = [np.frombuffer(row, np.uint8) for row in rows]
        return values[:, None] if "column" in layout else values
    return {
        "rows": padded,
        "png": padded,
        "signed": padded.view(np.int8),
        "column": padded[:, None],
        "strings": np.array(rows),
        "strings, a column": np.array(rows)[:, None],
        "opaque": padded.view(f"V{width}")[:, 0],
    }[layout]


LAYOUTS = [
    "rows", "png", "signed", "column", "strings", "strings, a column", "opaque", "variable", "variable, a column"
]  # fmt: skip


def with_images(path: Path, layout: str) -> Path:
    with h5py.File(path, "r+") as root:
        del root["observations/images/top"]
        images = images_of(layout)
        dtype = h5py.vlen_dtype(np.uint8) if images.dtype == object else images.dtype
        root.create_dataset("observations/images/top", data=images, dtype=dtype)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_recognised_by_their_content(path: Path, layout: str):
    episode = Episode(with_images(path, layout))
    assert episode.spec.cameras == {"top": (16, 24)}
    frames = episode.frames("top")
    assert frames.dtype == np.uint8
    expected = np.stack([RED // (1 + t) for t in range(STEPS)])
    assert np.abs(frames.astype(int) - expected).max() <= 6  # red stays red
    np.testing.assert_array_equal(episode.frame("top", 4), frames[4])
    np.testing.assert_array_equal(episode.frames("top", 1, 3), frames[1:3])
    assert episode.frames("top", 3, 3).shape == (0, 16, 24, 3)
    assert noted(episode, "JPEG", "colour order")


def test_true_colours_are_read_as_such_where_the_file_or_the_flag_says_so(path: Path):
    with_images(path, "strings")
    bgr = Episode(path).frame("top", 0)
    rgb = Episode(path, jpeg_colors="rgb")
    np.testing.assert_array_equal(rgb.frame("top", 0), bgr[..., ::-1])
    attributes(path, jpeg_colors="RGB")
    said = Episode(path)
    np.testing.assert_array_equal(said.frame("top", 0), bgr[..., ::-1])
    np.testing.assert_array_equal(Episode(path, jpeg_colors="bgr").frame("top", 0), bgr)
    for episode in (rgb, said):
        assert not noted(episode, "colour order")


def test_training_and_pictures_see_the_same_colours(path: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(inspect_data, "joint_plots", lambda *_: None)  # which take seconds
    with_images(path, "rows")
    orders: list[tuple[JpegColors, bool]] = [("bgr", True), ("rgb", False)]
    for order, red in orders:
        dataset = ChunkDataset([path], 3, val_fraction=0, jpeg_colors=order)
        [pixel] = dataset.gather(dataset.train[:1]).observation.images["top"][:, 0, 0].tolist()
        assert (pixel[0] > 150) == red
        [shown] = [
            episode.frame("top", 0)[0, 0].tolist()
            for episode in view.read_episodes(path, view.Args(path, jpeg_colors=order))
        ]
        assert shown == pixel
        inspect_data.main(inspect_data.Args(path, out=tmp_path / order, jpeg_colors=order))
        sheet = np.asarray(Image.open(tmp_path / order / "top.png").convert("RGB")).astype(int)
        assert ((sheet[..., 0] - sheet[..., 2]) > 100).any() == red
    args = ["--data", str(path), "--out", str(tmp_path / "run"), "--jpeg-colors", "rgb"]
    assert train.parse(args).training.jpeg_colors == "rgb"
    assert train.parse(args[:4]).training.jpeg_colors == "auto"
    assert TrainConfig().jpeg_colors == "auto"


def test_colours_first_are_turned(path: Path):
    raw = np.random.default_rng(0).integers(0, 256, (STEPS, 6, 8, 3), dtype=np.uint8)
    change(path, observations__images__top=np.moveaxis(raw, 3, 1))
    episode = Episode(path)
    assert episode.spec.cameras == {"top": (6, 8)}
    np.testing.assert_array_equal(episode.frames("top"), raw)
    np.testing.assert_array_equal(episode.frame("top", 2), raw[2])


def test_a_damaged_image_is_named_with_its_number(path: Path):
    with_images(path, "rows")
    with h5py.File(path, "r+") as root:
        root["observations/images/top"][3, 20:] = 0  # pyright: ignore[reportIndexIssue]
    episode = Episode(path)
    assert episode.frame("top", 2).shape == (16, 24, 3)
    assert says(refusal(lambda: episode.frames("top")), path, "/observations/images/top", "frame 3", "JPEG")
    with h5py.File(path, "r+") as root:
        root["observations/images/top"][0] = 0  # pyright: ignore[reportIndexIssue]
    assert says(refusal(lambda: Episode(path)), path, "/observations/images/top", "frame 0", "JPEG")


def test_an_image_of_another_size_is_named(path: Path):
    rows = [jpeg(RED), jpeg(RED[:8])] * 3
    change(path, observations__images__top=np.array(rows))
    line = refusal(lambda: Episode(path).frames("top"))
    assert says(line, path, "/observations/images/top", "frame 1", "8x24", "frame 0", "16x24")


DEPTH = np.ones((STEPS, 6, 8), np.uint16)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (DEPTH, "uint16 of 3 axes"),
        (DEPTH.astype(np.uint8), "3 axes"),
        (DEPTH.astype(np.float32)[..., None], "float32 of 4 axes"),
        (np.float64(3), "float64 of 0 axes"),
        (np.array([jpeg(each, "PNG") for each in DEPTH]), "8 bits"),
        (None, "group"),
    ],
)
def test_what_is_no_colour_picture_is_no_camera_unless_it_is_asked_for(path: Path, values, reason: str):
    name = "observations/images/depth_high"
    with h5py.File(path, "r+") as root:
        if values is None:
            root.create_group(name)["frame_0"] = DEPTH
        else:
            root[name] = values
    episode = Episode(path)
    assert list(episode.spec.cameras) == ["top"]
    assert noted(episode, "images/depth_high", reason, "left out")
    assert ChunkDataset([path], 3).cameras == ("top",)
    assert says(refusal(lambda: ChunkDataset([path], 3, cameras=("depth_high",))), path, f"/{name}", reason)


def test_a_broken_camera_is_in_the_way_only_if_it_is_asked_for(path: Path):
    change(path, observations__images__wrist=np.zeros((STEPS - 1, 6, 8, 3), np.uint8))
    for line in (refusal(lambda: Episode(path)), refusal(lambda: Episode(path, cameras=("wrist",)))):
        assert says(line, path, "/observations/images/wrist", "5 frames", "6 steps")
    episode = Episode(path, cameras=("top",))
    assert list(episode.spec.cameras) == ["top"]
    assert noted(episode, "images/wrist", "left out")


# Data sets


def test_only_chosen_cameras_are_compared(tmp_path: Path):
    paths = [tmp_path / "episode_0.hdf5", tmp_path / "episode_1.hdf5"]
    for i, path in enumerate(paths):
        write_original(path, cameras=("angle", "top", "wrist")[i:])
    line = refusal(lambda: check_dataset(paths))
    assert says(line, paths[1], paths[0], "[top, wrist]", "[angle, top, wrist]", "--cameras top wrist")
    assert list(check_dataset(paths, cameras=("top",)).cameras) == ["top", "wrist"]
    dataset = ChunkDataset(paths, 3, cameras=("top",), val_fraction=0)
    assert set(dataset.gather(dataset.train).observation.images) == {"top"}
    assert noted(dataset_notes(dataset.episodes), 2, "camera angle", 1)
    assert says(refusal(lambda: check_dataset(paths, cameras=("angle",))), paths[1], paths[0], "angle")
    assert says(refusal(lambda: check_dataset(paths, cameras=("left",))), "camera left", tmp_path, "angle, top, wrist")


def test_tasks_and_rates_of_other_recorders_may_differ_a_little(tmp_path: Path):
    paths = [tmp_path / f"episode_{i}.hdf5" for i in range(3)]
    for i, path in enumerate(paths):
        write_original(path)
        change(path, action=np.full((STEPS, 14), i))
        attributes(path, task=f"take number {i}", fps=50 - 0.03 * i)
    assert check_dataset(paths).fps == 50
    [note] = dataset_notes([Episode(path) for path in paths])
    assert says(note, "fps", "49.94 to 50")
    attributes(paths[2], fps=30)
    assert says(refusal(lambda: check_dataset(paths)), paths[2], paths[0], "fps", 30, 50)


def test_notes_of_a_data_set_are_merged(tmp_path: Path):
    paths = [tmp_path / f"episode_{i}.hdf5" for i in range(3)]
    for i, path in enumerate(paths):
        write_original(path)
        change(path, action=np.full((STEPS, 14), i // 2), observations__qvel=None)
    attributes(paths[1], fps=50)
    episodes = [Episode(path) for path in paths]
    fps, qvel, twice = dataset_notes(episodes)
    assert says(fps, *ASSUMED_FPS, "2 of 3")
    assert says(qvel, *NO_QVEL, "3 of 3")
    assert says(twice, paths[1], paths[0], "twice")
    many = [write(tmp_path / f"own_{i}.hdf5", n=i + 1) for i in range(2)]
    assert dataset_notes([Episode(path) for path in many]) == []


# Folders


def test_names_with_zeros_and_h5_are_found(tmp_path: Path):
    for name in ("episode_010.h5", "episode_002.hdf5", "episode_000.hdf5"):
        (tmp_path / name).touch()
    assert [path.name for path in find_episodes(tmp_path)] == ["episode_000.hdf5", "episode_002.hdf5", "episode_010.h5"]
    (tmp_path / "episode_2.h5").touch()
    assert says(refusal(lambda: find_episodes(tmp_path)), tmp_path, "episode_002.hdf5", "episode_2.h5", "number")


def test_a_file_is_an_episode(path: Path):
    assert find_episodes(path) == [path]
    assert len(ChunkDataset(path, 3).episodes) == 1


def test_what_is_there_instead_is_said(tmp_path: Path):
    for name in (
        "tasks/cube/episode_0.hdf5",
        "tasks/tray/episode_0.hdf5",
        "odd/demo_0.hdf5",
        "odd/7.h5",
        "empty/x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    tasks = tmp_path / "tasks"
    for folder in (tasks, tmp_path):
        assert says(refusal(lambda folder=folder: find_episodes(folder)), folder, f"{tasks}/cube", f"{tasks}/tray")
    line = refusal(lambda: find_episodes(tmp_path / "odd"))
    assert says(line, f"{tmp_path}/odd", "episode_0.hdf5", "7.h5", "demo_0.hdf5", "rename")
    line = refusal(lambda: find_episodes(tmp_path / "empty"))
    assert says(line, f"{tmp_path}/empty", "episode_0.hdf5")
    assert "x.txt" not in line


def test_each_episode_is_read_once(tmp_path: Path):
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    other.mkdir()
    paths = [write(data / f"episode_{i}.hdf5") for i in range(2)]
    (tmp_path / "link").symlink_to(data)
    (other / "episode_0.hdf5").symlink_to(paths[1])
    os.link(paths[0], other / "episode_1.hdf5")
    assert find_all_episodes([data]) == (paths, [])
    for again in (data, tmp_path / "link", data / ".", other, paths[1]):
        found, notes = find_all_episodes([data, again])
        assert found == paths
        [note] = notes
        assert says(note, again, *(("2 of 2 episodes", paths[1]) if again == other else ("twice",)))


# What the operating system refuses


@pytest.mark.parametrize(
    ("number", "text", "line"),
    [
        (errno.EAGAIN, "unable to lock file", "open for writing"),
        (errno.EACCES, "unable to lock file", "open for writing"),
        (errno.EACCES, "unable to open file", "permission denied"),
        (errno.EMFILE, "unable to open file", hdf5_checks.REFUSALS[errno.EMFILE]),
        (errno.EIO, "file read failed", hdf5_checks.REFUSALS[errno.EIO]),
        (errno.ESTALE, "unable to open file", hdf5_checks.REFUSALS[errno.ESTALE]),
        (errno.ENOLCK, "unable to lock file", hdf5_checks.REFUSALS[errno.ENOLCK]),
        (errno.ELOOP, "unable to open file", "Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_the_system_refuses_is_said_of_a_whole_file(path: Path, monkeypatch, number, text, line, known):
    """With the number of the error, or only in its words, as where values are read."""
    episode = Episode(path)
    words = f"Unable to synchronously open file ({text}, errno = {number}, error message = 'x')"
    error = OSError(number, words) if known else RuntimeError(words)

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(h5py, "File", refuse)
    for read in (lambda: Episode(path), lambda: episode.frame("top", 0), episode.__enter__):
        assert says(refusal(read), path, line)
    monkeypatch.undo()
    assert Episode(path).length == STEPS


def test_a_file_that_is_open_for_writing_is_named(path: Path):
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+', libver='v110'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        assert says(refusal(lambda: Episode(path)), path, "open for writing")
        writer.communicate(b"\n")
    assert Episode(path).length == STEPS


def test_a_file_that_vanishes_is_named(path: Path):
    episode = Episode(path)
    path.unlink()
    assert says(refusal(lambda: episode.frame("top", 0)), path, "no such file")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("exists", "iterdir"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, refuse)
            assert says(refusal(lambda: find_episodes(tmp_path)), tmp_path, "permission denied", "chmod")


def test_our_files_have_no_notes(tmp_path: Path):
    episode = Episode(write(tmp_path / "episode_0.hdf5"))
    assert (episode.ours, episode.notes, episode.spec) == (True, (), SPEC)


def test_one_seed_in_all_files_still_leaves_some_for_validation(tmp_path: Path):
    paths = [tmp_path / f"episode_{i}.hdf5" for i in range(4)]
    for path in paths:
        write_original(path)
        attributes(path, seed=0)
    dataset = ChunkDataset(paths, 3, val_fraction=0.25)
    assert (len(dataset.train), len(dataset.val)) == (3 * STEPS, STEPS)
