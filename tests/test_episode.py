"""Laws of the episode file: what goes in comes out, nothing broken gets in."""

import dataclasses
import io
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from demos.episode import Episode, check_dataset, find_episodes
from demos.robot import ALOHA, Robot
from demos.spec import EpisodeError, EpisodeSpec
from demos.writer import EpisodeWriter

STEPS = 6
SPEC = EpisodeSpec(
    ALOHA,
    cameras={"top": (12, 16), "angle": (8, 10)},  # not in alphabetical order
    env_ids=("BimanualTransferCube-v0",),
    task="transfer the cube",
    env_state_dim=7,
)


def steps(spec: EpisodeSpec = SPEC, n: int = STEPS, seed: int = 0):
    """Random (observation, action, reward) that fit the spec."""
    rng = np.random.default_rng(seed)
    joints = len(spec.joint_names)
    for t in range(n):
        sizes = {"qpos": joints, "qvel": joints, "env_state": spec.env_state_dim}
        observation: dict[str, np.ndarray] = {k: rng.normal(size=n).astype(np.float32) for k, n in sizes.items()}
        for name, size in spec.cameras.items():
            observation[f"images/{name}"] = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        yield observation, rng.normal(size=joints).astype(np.float32), float(t % 5)


def write(path: Path, spec: EpisodeSpec = SPEC, n: int = STEPS) -> Path:
    with EpisodeWriter(path, spec, seed=3, expert="waypoints", attributes={"noise": 0.25}) as writer:
        for step in steps(spec, n):
            writer.append(*step)
        return writer.close(success=True, success_published=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "episode_0.hdf5")


def test_round_trip_is_exact(path: Path):
    episode, (observations, actions, rewards) = Episode(path), zip(*steps(), strict=True)
    assert episode.spec == SPEC
    assert list(episode.spec.cameras) == ["top", "angle"]
    assert (episode.length, episode.sim, episode.action_offset) == (STEPS, True, 0)
    assert (episode.seed, episode.expert, episode.success, episode.success_published) == (3, "waypoints", True, False)
    assert episode.attributes["noise"] == 0.25
    assert episode.attributes["max_reward"] == 4.0
    assert "h5py" in json.loads(episode.attributes["versions"])
    assert episode.effort is None
    np.testing.assert_array_equal(episode.action, actions)
    np.testing.assert_array_equal(episode.reward, rewards)
    for name in ("qpos", "qvel", "env_state"):
        assert getattr(episode, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(episode, name), [observation[name] for observation in observations])
    for camera in SPEC.cameras:
        frames = np.stack([observation[f"images/{camera}"] for observation in observations])
        np.testing.assert_array_equal(episode.frames(camera), frames)
        np.testing.assert_array_equal(episode.frames(camera, 2, 4), frames[2:4])
        np.testing.assert_array_equal(episode.frame(camera, STEPS - 1), frames[-1])


def test_no_cameras_and_no_object_poses(tmp_path: Path):
    spec = EpisodeSpec(Robot(("a", "b"), control_hz=30.0), cameras={})
    episode = Episode(write(tmp_path / "episode_0.hdf5", spec))
    assert episode.spec == spec
    assert episode.qpos.shape == (STEPS, 2)
    assert episode.env_state is None


def test_reads_as_the_original_reads(path: Path):
    """The accesses of the original's dataset, by plain h5py."""
    with h5py.File(path, "r") as root:
        assert isinstance(root.attrs["sim"], np.bool_)
        assert root.attrs["sim"]
        assert not root.attrs.get("compress", False)
        for name in ("/action", "/observations/qpos", "/observations/qvel"):
            values = root[name][()]  # pyright: ignore[reportIndexIssue]
            assert (values.shape, values.dtype) == ((STEPS, 14), np.float32)  # pyright: ignore
        images = root["/observations/images/top"]
        assert isinstance(images, h5py.Dataset)
        assert (images.shape, images.chunks, images.dtype) == ((STEPS, 12, 16, 3), (1, 12, 16, 3), np.uint8)
        np.testing.assert_array_equal(images[3], list(steps())[3][0]["images/top"])


def test_travels_to_other_processes(path: Path):
    episode = Episode(path)
    frame = episode.frame("top", 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(episode)).frame("top", 2), frame)
    with episode:
        np.testing.assert_array_equal(episode.frame("top", 2), frame)
    np.testing.assert_array_equal(episode.frame("top", 2), frame)


# Files of others


def write_original(
    path: Path, sim: bool = True, cameras: tuple[str, ...] = ("top",), scale: float = 9.0
) -> dict[str, np.ndarray]:
    """As ACT records; joints from 0 to `scale`: up to 1 they keep ALOHA's limits."""
    rng = np.random.default_rng(1)
    data: dict[str, np.ndarray] = {
        "action": rng.uniform(0, scale, size=(STEPS, 14)),
        "observations/qpos": rng.uniform(0, scale, size=(STEPS, 14)),
        "observations/qvel": rng.normal(size=(STEPS, 14)),
    }
    if not sim:
        data["observations/effort"] = rng.normal(size=(STEPS, 14))
    for camera in cameras:
        data[f"observations/images/{camera}"] = rng.integers(0, 256, (STEPS, 6, 8, 3), dtype=np.uint8)
    with h5py.File(path, "w") as root:
        root.attrs["sim"] = sim
        for name, array in data.items():
            root.create_dataset(name, data=array, chunks=(1, *array.shape[1:]))
    return data


def test_original_simulation_file(tmp_path: Path):
    data = write_original(tmp_path / "episode_0.hdf5", scale=1.0)
    episode = Episode(tmp_path / "episode_0.hdf5")
    assert episode.spec == EpisodeSpec(ALOHA, cameras={"top": (6, 8)})
    assert sum("ALOHA" in note for note in episode.notes) == 1
    assert (episode.sim, episode.action_offset, episode.seed, episode.success) == (True, 0, None, None)
    np.testing.assert_array_equal(episode.action, data["action"].astype(np.float32))  # float64 is welcome
    np.testing.assert_array_equal(episode.frames("top"), data["observations/images/top"])


def test_real_robot_file(tmp_path: Path):
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist", "cam_high_depth")
    data = write_original(tmp_path / "episode_0.hdf5", sim=False, cameras=cameras)
    episode = Episode(tmp_path / "episode_0.hdf5")
    assert (episode.sim, episode.action_offset) == (False, -1)
    assert list(episode.spec.cameras) == ["cam_high", "cam_left_wrist", "cam_low", "cam_right_wrist"]
    np.testing.assert_array_equal(episode.effort, data["observations/effort"].astype(np.float32))
    np.testing.assert_array_equal(episode.frame("cam_low", 2), data["observations/images/cam_low"][2])


def write_jpeg(path: Path) -> np.ndarray:
    """As act-plus-plus does: RGB goes to an encoder that takes it for BGR; rows are padded to one width."""
    write_original(path, sim=False, cameras=("cam_low", "cam_high"))
    ramp = np.linspace(0, 255, 48, dtype=np.uint8)
    frames = np.stack([np.broadcast_to([200, 30 * t, 10], (32, 48, 3)).copy() for t in range(STEPS)]).astype(np.uint8)
    frames[..., 2] = ramp
    rows = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(buffer, "JPEG", quality=95)
        rows.append(np.frombuffer(buffer.getvalue(), np.uint8))
    width = max(map(len, rows)) + 100
    with h5py.File(path, "r+") as root:
        root.attrs["compress"] = True
        root["compress_len"] = np.tile([len(row) for row in rows], (2, 1)).astype(np.float32)
        for camera in ("cam_low", "cam_high"):
            del root[f"observations/images/{camera}"]
            root[f"observations/images/{camera}"] = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
    return frames


def test_jpeg_file(tmp_path: Path):
    frames = write_jpeg(tmp_path / "episode_0.hdf5")
    episode = Episode(tmp_path / "episode_0.hdf5")
    assert episode.spec.cameras == {"cam_high": (32, 48), "cam_low": (32, 48)}
    decoded = episode.frames("cam_low")
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - frames).max() <= 6  # lossy, but red stays red
    np.testing.assert_array_equal(episode.frame("cam_high", 3), decoded[3])


# Nothing broken gets in


def replace(name: str, array: np.ndarray):
    def change(root: h5py.File) -> None:
        del root[name]
        root[name] = array

    return change


def set_value(name: str, step: int, value: float):
    def change(root: h5py.File) -> None:
        root[name][step, 0] = value  # pyright: ignore[reportIndexIssue]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: root.pop("action"), "dataset /action is missing"),
        (
            lambda root: root.pop("observations/images/top"),
            "attribute cameras names top, but /observations/images/top is missing; the cameras are: angle",
        ),
        (
            replace("observations/qpos", np.zeros(6, np.float32)),
            "/observations/qpos has shape (6,); it must be (steps, joints)",
        ),
        (
            replace("observations/qpos", np.zeros((0, 14), np.float32)),
            "/observations/qpos is empty, of shape (0, 14); an episode has at least one step",
        ),
        (replace("action", np.zeros((6, 7), "f4")), "/action has shape (6, 7); it must be (6, 14), as qpos has it"),
        (replace("action", np.zeros((5, 14), "f4")), "/action has shape (5, 14); it must be (6, 14), as qpos has it"),
        (replace("reward", np.zeros(5, "f4")), "/reward has shape (5,); it must be (6), as qpos has it"),
        (replace("action", np.zeros((6, 14), int)), "/action has dtype int64; it must be floating point"),
        (
            set_value("observations/qvel", 4, np.nan),
            "/observations/qvel has NaN or infinite values, first at step 4; leave this file out",
        ),
        (set_value("action", 2, np.inf), "/action has NaN or infinite values, first at step 2; leave this file out"),
        (
            replace("observations/images/top", np.zeros((6, 12, 16, 3), "f4")),
            "/observations/images/top has dtype float32; frames must be uint8",
        ),
        (
            replace("observations/images/top", np.zeros((6, 3, 12, 16), "u1")),
            "/observations/images/top has shape (6, 3, 12, 16); it must be (T, height, width, 3)",
        ),
        (
            replace("observations/images/top", np.zeros((4, 12, 16, 3), "u1")),
            "/observations/images/top has 4 frames; this file's qpos has 6 steps",
        ),
        (
            lambda root: root.attrs.update(format_version=9),
            "has format version 9; this toolkit reads up to version 2",
        ),
        (
            lambda root: root.attrs.update(joint_names=["waist"]),
            "attribute joint_names has 1 names for 14 joints",
        ),
    ],
)
def test_broken_content_is_named(path: Path, change, message: str):
    with h5py.File(path, "r+") as root:
        change(root)
    with pytest.raises(EpisodeError) as caught:
        Episode(path)
    assert str(caught.value) == f"{path}: {message}"


def test_broken_files_are_named(path: Path):
    whole = path.read_bytes()
    message = f"{path}: is not a whole HDF5 file; copy or record it again, or leave it out"
    for content in (b"", b"not HDF5 at all", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(EpisodeError) as caught:
            Episode(path)
        assert str(caught.value) == message
    path.unlink()
    with pytest.raises(EpisodeError, match=f"^{path}: no such file$"):
        Episode(path)


def test_damaged_frames_are_named(path: Path):
    with h5py.File(path, "r+") as root:
        root["observations/images/top"].id.write_direct_chunk((3, 0, 0, 0), b"not gzip")  # pyright: ignore
    episode = Episode(path)
    assert episode.frame("top", 2).shape == (12, 16, 3)
    with pytest.raises(EpisodeError, match=f"^{path}: /observations/images/top is damaged; copy or record it again"):
        episode.frame("top", 3)
    with pytest.raises(EpisodeError, match=f"^{path}: has no camera wrist; it has top, angle$"):
        episode.frame("wrist", 0)


def test_damaged_jpeg_is_named(tmp_path: Path):
    path = tmp_path / "episode_0.hdf5"
    write_jpeg(path)
    with h5py.File(path, "r+") as root:
        root["observations/images/cam_low"][0] = 0  # pyright: ignore[reportIndexIssue]
    with pytest.raises(EpisodeError, match=f"^{path}: /observations/images/cam_low: frame 0 is not a JPEG image$"):
        Episode(path)


# Datasets


def test_episodes_are_found_by_number(tmp_path: Path):
    for name in (
        "episode_10.hdf5",
        "episode_2.hdf5",
        "episode_0.hdf5",
        "notes.txt",
        ".episode_3.hdf5.part",
        "other.hdf5",
    ):
        (tmp_path / name).touch()
    assert [file.name for file in find_episodes(tmp_path)] == ["episode_0.hdf5", "episode_2.hdf5", "episode_10.hdf5"]


def test_a_folder_without_episodes_is_named(tmp_path: Path):
    with pytest.raises(EpisodeError) as caught:
        find_episodes(tmp_path)
    expected = f"{tmp_path}: no episodes in it; their files are named episode_0.hdf5, episode_1.hdf5, …"
    assert str(caught.value) == expected
    with pytest.raises(EpisodeError) as caught:
        find_episodes(tmp_path / "none")
    expected = f"{tmp_path}/none: no such folder; scripts/record.py records demonstrations into one"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"cameras": {"top": (24, 32), "angle": (8, 10)}},
            "camera top is 24x32 here, 12x16 there; --cameras angle takes the cameras that both have",
        ),
        (
            {"cameras": {"top": (12, 16)}},
            "the list of cameras is [top] here, [top, angle] there; --cameras top takes the cameras that both have",
        ),
        ({"robot": dataclasses.replace(ALOHA, control_hz=30.0)}, "fps is 30 here, 50 there"),
        ({"task": "insert"}, "task is 'insert' here, 'transfer the cube' there"),
        ({"env_ids": ("Own-v0",)}, "env_id is 'Own-v0' here, 'BimanualTransferCube-v0' there"),
        ({"env_state_dim": 14}, "env_state_dim is 14 here, 7 there"),
        ({"robot": ("a", "b")}, f"the list of joints is [a, b] here, [{', '.join(ALOHA.joint_names)}] there"),
    ],
)
def test_episodes_that_disagree_are_named(tmp_path: Path, path: Path, change: dict, difference: str):
    other = dataclasses.replace(SPEC, **change, **({"action_names": ()} if "robot" in change else {}))
    same, odd = write(tmp_path / "episode_1.hdf5"), write(tmp_path / "episode_2.hdf5", other, n=3)
    assert check_dataset([path, same]) == SPEC
    with pytest.raises(EpisodeError) as caught:
        check_dataset([path, same, odd])
    assert str(caught.value) == f"{odd} does not go with {path}: {difference}"


def test_spec_survives_json():
    assert EpisodeSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC
    assert SPEC.differences(SPEC) == []
