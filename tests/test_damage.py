"""Laws of what is not believed: flipped bits, impossible values, attributes of another kind, data kept elsewhere."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from messages import has, refusal, says
from test_episode import SPEC, STEPS, steps, write, write_original

from demos.episode import Episode, find_episodes
from demos.robot import Robot
from demos.spec import EpisodeError, EpisodeSpec
from demos.writer import EpisodeWriter

SMALL = [
    "action",
    "expert_action",
    "human",
    "observations/env_state",
    "observations/qpos",
    "observations/qvel",
    "reward",
]
FRAMES = [f"observations/images/{camera}" for camera in SPEC.cameras]


def write_all(path: Path) -> Path:
    """A file with every array that there is."""
    with EpisodeWriter(path, SPEC, seed=3, expert="waypoints", attributes={"noise": 0.25}) as writer:
        for t, (observation, action, reward) in enumerate(steps()):
            writer.append(observation, action, reward, expert_action=-action, human=t % 2 == 0)
        return writer.close(success=True, success_published=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_all(tmp_path / "episode_0.hdf5")


def everything(path: Path) -> list:
    episode = Episode(path)
    arrays = [getattr(episode, name.rpartition("/")[2]) for name in SMALL]
    with episode:
        arrays += [episode.frames(camera) for camera in episode.spec.cameras]
    return [repr(episode.spec), repr(episode.attributes), *(array.tobytes() for array in arrays)]


# Flipped bits


def chunks(path: Path, name: str) -> list[tuple[int, int]]:
    """Where the chunks of a dataset lie in the file: (offset, size) of each."""
    with h5py.File(path, "r") as root:
        stored = root[name].id  # pyright: ignore[reportAttributeAccessIssue]
        infos = [stored.get_chunk_info(i) for i in range(stored.get_num_chunks())]
    return [(info.byte_offset, info.size) for info in infos]


def flip(path: Path, byte: int, bit: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[byte] ^= 1 << bit
    path.write_bytes(whole)


def test_every_array_of_a_file_is_looked_at_here(path: Path):
    found = []
    with h5py.File(path, "r") as root:
        root.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    assert sorted(found) == sorted(SMALL + FRAMES)


@pytest.mark.parametrize("bit", [0, 3, 7])
@pytest.mark.parametrize("place", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("name", SMALL)
def test_a_flipped_bit_of_a_small_array_is_noticed_at_opening(path: Path, name: str, place: float, bit: int):
    ((offset, size),) = chunks(path, name)
    flip(path, offset + int(place * size), bit)
    assert says(refusal(lambda: Episode(path)), path, f"/{name}", "damaged")


@pytest.mark.parametrize("bit", [0, 3, 7])
@pytest.mark.parametrize("place", [0.0, 0.4, 0.99])
@pytest.mark.parametrize("name", FRAMES)
def test_a_flipped_bit_of_a_frame_is_noticed_as_it_is_read(path: Path, name: str, place: float, bit: int):
    offset, size = chunks(path, name)[2]
    flip(path, offset + int(place * size), bit)
    episode, camera = Episode(path), name.rpartition("/")[2]
    assert episode.frame(camera, 1).shape == (*SPEC.cameras[camera], 3)
    assert says(refusal(lambda: episode.frame(camera, 2)), path, f"/{name}", "damaged")
    with (
        h5py.File(path, "r") as root,
        pytest.raises(OSError, match="filter returned failure"),
    ):  # plain h5py notices, too
        root[name][2]  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("packed", [{"shuffle": True}, {"chunks": (2, 12, 16, 3)}])
def test_frames_that_hdf5_unpacks_are_checked_as_well(path: Path, packed: dict):
    """Episode.frames unpacks our own layout itself, and leaves any other to HDF5."""
    name = "observations/images/top"
    with h5py.File(path, "r+") as root:
        frames = root[name][()]  # pyright: ignore[reportIndexIssue]
        del root[name]
        root.create_dataset(name, data=frames, **{"chunks": (1, 12, 16, 3), "compression": "gzip", **packed})
    np.testing.assert_array_equal(Episode(path).frames("top"), frames)
    offset, size = chunks(path, name)[0]
    flip(path, offset + size // 2, 4)
    assert says(refusal(lambda: Episode(path).frame("top", 0)), path, f"/{name}", "damaged")


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(path: Path):
    """Attributes, shapes, types and addresses, too. Some bytes of a file mean nothing."""
    whole, expected, lines = path.read_bytes(), everything(path), []
    places = range(0, len(whole), 31)
    for byte in places:
        flip(path, byte, byte % 8)
        try:
            assert everything(path) == expected
        except EpisodeError as error:
            lines.append(str(error))
        path.write_bytes(whole)
    assert len(lines) > 0.9 * len(places)
    assert all(has(line, path, "damaged") or has(line, path, "HDF5 file") for line in lines)


@pytest.mark.parametrize("text", ["transfer the cube", "BimanualTransferCube", "left_waist", "waypoints"])
def test_flipped_bits_of_text_attributes_are_noticed(path: Path, text: str):
    flip(path, path.read_bytes().index(text.encode()), 1)
    assert says(refusal(lambda: Episode(path)), path, "HDF5 file")


def test_old_files_without_checksums_are_read(tmp_path: Path):
    """As the first format version wrote them: HDF5's earliest layout, text of any length, no filter."""
    new, old = Episode(write_all(tmp_path / "episode_0.hdf5")), tmp_path / "episode_1.hdf5"
    with h5py.File(new.path, "r") as source, h5py.File(old, "w", libver="earliest") as root:
        for name in SMALL:
            root[name] = source[name][()]  # pyright: ignore[reportIndexIssue]
        for name in FRAMES:
            source.copy(name, root, name)
        for name, value in new.attributes.items():
            root.attrs[name] = value
        root.attrs["format_version"] = 1
    assert Episode(old).spec == new.spec
    assert Episode(old).attributes == new.attributes | {"format_version": 1}
    assert everything(old)[2:] == everything(new.path)[2:]


# Values that cannot be


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("action", 1e30, 100),
        ("observations/qpos", -101.0, 100),
        ("observations/qvel", 1e30, 100000),
        ("expert_action", 1e30, 100),
        ("observations/env_state", 1e30, 100),
    ],
)
def test_values_that_no_joint_can_have_are_refused(path: Path, name: str, value: float, limit: int):
    with h5py.File(path, "r+") as root:
        root[name][4, 2] = value  # pyright: ignore[reportIndexIssue]
    whose = [] if name == "observations/env_state" else ["left_elbow"]
    assert says(refusal(lambda: Episode(path)), path, f"/{name}", f"{value:g}", limit, "step 4", *whose)


def test_files_that_name_no_unit_may_have_any(tmp_path: Path):
    """Degrees, millimetres, counts of encoders: not ours, but somebody's."""
    path = tmp_path / "episode_0.hdf5"
    write_original(path, sim=False)
    with h5py.File(path, "r+") as root:
        root["observations/qpos"][:, 0] = 1_048_575  # pyright: ignore[reportIndexIssue]
        root["observations/effort"][:, 0] = -2e9  # pyright: ignore[reportIndexIssue]
    assert Episode(path).qpos[0, 0] == 1_048_575
    with h5py.File(path, "r+") as root:
        root["observations/qpos"][1, 13] = 1e30  # pyright: ignore[reportIndexIssue]
    parts = ("/observations/qpos", "1e+30", "column 13", "step 1", "1.67772e+07")
    assert says(refusal(lambda: Episode(path)), path, *parts)


def test_the_writer_refuses_them_first(tmp_path: Path):
    (observation, action, reward), path = next(steps()), tmp_path / "episode_0.hdf5"
    writer = EpisodeWriter(path, SPEC, seed=0, expert="x")
    line = refusal(lambda: writer.append({**observation, "qvel": np.full(14, 2e5)}, action, reward))
    assert says(line, path, "step 0", "qvel", 200000, 100000)


# Attributes


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("fps", "fast", "positive number"),
        ("fps", 0, "positive number"),
        ("fps", -50.0, "positive number"),
        ("fps", np.nan, "positive number"),
        ("fps", [50.0], "positive number"),
        ("format_version", "x", "whole number from 1"),
        ("format_version", 1.5, "whole number from 1"),
        ("seed", "x", "whole number from 0"),
        ("seed", -1, "whole number from 0"),
        ("success", "maybe", "true or false"),
        ("success_published", 2, "true or false"),
        ("sim", "yes", "true or false"),
        ("compress", "no", "true or false"),
        ("expert", 7, "text"),
        ("env_id", 7, "text"),
        ("task", [1, 2], "text"),
        ("action_layout", False, "text"),
        ("task", h5py.Empty("f4"), "text"),
        ("joint_names", list(range(14)), "names"),
        ("joint_names", ["a"] * 2, "names"),
        ("cameras", [1, 2], "names"),
        ("cameras", "top", "names"),
        ("cameras", [""], "names"),
    ],
)
def test_attributes_of_another_kind_are_named(path: Path, name: str, value: object, needed: str):
    with h5py.File(path, "r+") as root:
        root.attrs[name] = value
    shown = "Empty" if isinstance(value, h5py.Empty) else value
    assert says(refusal(lambda: Episode(path)), path, "attribute", name, shown, needed)


def test_a_camera_that_is_named_and_not_there_is_refused(path: Path):
    with h5py.File(path, "r+") as root:
        root.attrs["cameras"] = ["top", "wrist"]
    line = refusal(lambda: Episode(path))
    assert says(line, path, "cameras", "/observations/images/wrist", "missing", "angle, top")


def test_text_in_all_letters_and_empty_lists_survive(tmp_path: Path):
    spec = EpisodeSpec(Robot.from_joint_names(("Gelenk ä", "関節")), {}, task="Würfel übergeben")
    assert Episode(write(tmp_path / "episode_0.hdf5", spec)).spec == spec


# Sizes


def give(name: str, shape: tuple[int, ...], dtype: str = "f4", **more) -> Callable[[h5py.File], None]:
    def change(root: h5py.File) -> None:
        del root[name]
        root.create_dataset(name, shape, dtype, **more)

    return change


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (give("observations/qpos", (10**9, 14)), ["/observations/qpos", "1000000000 steps", 1000000]),
        (
            give("observations/qpos", (10**9, 14), chunks=(1, 14), compression="gzip"),
            ["/observations/qpos", "1000000000 steps", 1000000],
        ),
        (
            give("observations/qpos", (1000, 10**9)),
            ["/observations/qpos", "4000000000000 bytes", "(1000, 1000000000)", 1073741824],
        ),
        (
            give("reward", (STEPS,), chunks=(10**9,), maxshape=(None,)),
            ["/reward", "4000000000 bytes", "(6,)", 1073741824],
        ),
        (
            give("observations/images/top", (STEPS, 10**5, 10**5, 3), "u1"),
            ["/observations/images/top", "30000000000 bytes", "(6, 100000, 100000, 3)", 268435456],
        ),
        (
            give("observations/images/top", (STEPS, 0, 16, 3), "u1"),
            ["/observations/images/top", "(6, 0, 16, 3)", "(T, height, width, 3)"],
        ),
        (give("action", (STEPS, 14)), ["/action", "0 of 336 bytes"]),
        (
            give("observations/images/top", (STEPS, 12, 16, 3), "u1", chunks=(1, 12, 16, 3), compression="gzip"),
            ["/observations/images/top", "0 of 6 chunks"],
        ),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_asked_for(path: Path, change, parts: list[object]):
    with h5py.File(path, "r+") as root:
        change(root)
    assert path.stat().st_size < 100_000
    assert says(refusal(lambda: Episode(path)), path, *parts)


# What is elsewhere


def external(root: h5py.File, name: str, target: Path) -> None:
    shape = root[name].shape  # pyright: ignore[reportAttributeAccessIssue]
    del root[name]
    root.create_dataset(name, shape, "f4", external=[(str(target), 0, h5py.h5f.UNLIMITED)])


def virtual(root: h5py.File, name: str, target: Path) -> None:
    layout = h5py.VirtualLayout((STEPS, 14), "f4")
    layout[:] = h5py.VirtualSource(str(target), name, (STEPS, 14))
    del root[name]
    root.create_virtual_dataset(name, layout)


def link(to) -> Callable[[h5py.File, str, Path], None]:
    def change(root: h5py.File, name: str, target: Path) -> None:
        del root[name]
        root[name] = to(target)

    return change


@pytest.mark.parametrize("target", ["whole", "missing", "fifo"])
@pytest.mark.parametrize("name", ["action", "expert_action"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "keeps its values in other places"),
        (virtual, "keeps its values in other places"),
        (link(lambda target: h5py.ExternalLink(str(target), "/observations/qpos")), "link"),
        (link(lambda target: h5py.SoftLink("/nowhere")), "link"),
    ],
)
def test_values_outside_the_file_are_refused(tmp_path: Path, path: Path, change, name: str, message: str, target: str):
    other = tmp_path / "other.hdf5"
    if target == "whole":
        write(other)
    elif target == "fifo":
        os.mkfifo(other)  # whoever opened it would wait
    with h5py.File(path, "r+") as root:
        change(root, name, other)
    assert says(refusal(lambda: Episode(path)), path, f"/{name}", message, "copy")


def test_groups_outside_the_file_are_refused(tmp_path: Path, path: Path):
    with h5py.File(path, "r+") as root:
        del root["observations"]
        root["observations"] = h5py.ExternalLink(str(write(tmp_path / "other.hdf5")), "/observations")
    assert says(refusal(lambda: Episode(path)), path, "/observations", "link", "copy")


def test_a_filter_that_is_not_installed_is_named(path: Path):
    """Number 32001 is Blosc's."""
    with h5py.File(path, "r+") as root:
        del root["action"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((STEPS, 14))
        properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((STEPS, 14))
        h5py.h5d.create(root.id, b"action", h5py.h5t.NATIVE_FLOAT, space, properties)
    assert says(refusal(lambda: Episode(path)), path, "/action", "filter 32001", "gzip")


def make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # a socket's name may have 108 letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a FIFO"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (Path.mkdir, "a folder"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object], kind: str):
    whole, odd = write(tmp_path / "episode_0.hdf5"), tmp_path / "episode_1.hdf5"
    make(odd)
    assert says(refusal(lambda: Episode(odd)), odd, kind, "not a file")
    assert says(refusal(lambda: find_episodes(tmp_path)), odd, kind, "not a file")
    episode = Episode(whole)
    whole.unlink()
    make(whole)
    assert says(refusal(lambda: episode.frame("top", 0)), whole, kind, "not a file")
    assert says(refusal(episode.__enter__), whole, kind, "not a file")
