"""Laws of going on with a folder: what would make other data is noticed, what would not is not."""

import json
import shutil
import sys
from pathlib import Path

import h5py
import pytest

import envs
from demos.demonstrators import Demonstrator
from demos.episode import Episode, find_episodes
from demos.provenance import MATTERING, changes, provenance
from demos.record import RecordConfig, record
from demos.spec import EpisodeError
from demos.writer import versions
from envs.bimanual import ASSETS
from envs.insertion import InsertionEnv
from envs.transfer_cube import TransferCubeEnv

NOW = {"scene": "0123456789ab", "code": "456789abcdef"}
CONFIG = RecordConfig(envs.TASKS["transfer_cube"], {"top": (12, 16)})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    record(CONFIG, folder, 1)
    return folder


@pytest.fixture
def folder(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "folder"))


def refusal(config: RecordConfig, folder: Path) -> str:
    with pytest.raises(EpisodeError) as caught:
        record(config, folder, 2)
    return str(caught.value)


def tell(folder: Path, **attributes: str) -> None:
    with h5py.File(folder / "episode_0.hdf5", "r+") as root:
        root.attrs.update(attributes)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"noise": 0.02}, "noise is 0.0 here, 0.02 there"),
        ({"first_seed": 7}, "first_seed is 0 here, 7 there"),
        ({"demonstrator": "plain"}, "expert is scripted here, plain there"),
        (
            {"demonstrator": "hasty", "traits": ("order", "misses")},
            "expert is scripted here, hasty there; traits is none here, order misses there",
        ),
    ],
)
def test_another_demonstrator_is_noticed(folder: Path, change: dict, difference: str):
    assert refusal(RecordConfig(**{**vars(CONFIG), **change}), folder) == (
        f"{folder} holds episodes with other settings (here: in the folder, there: asked for): {difference}. "
        "Give the same settings to resume, or another folder"
    )


@pytest.mark.parametrize("name", ["scene", "code", *MATTERING])
def test_another_origin_is_noticed(folder: Path, name: str):
    now = Episode(folder / "episode_0.hdf5").attributes
    if name in MATTERING:
        tell(folder, versions=json.dumps(json.loads(now["versions"]) | {name: "1.2.3"}))
        difference = f"{name} is 1.2.3 here, {versions()[name]} there"
    else:
        tell(folder, **{name: "0123456789ab"})
        words = {"scene": "the scene (its MJCF files)", "code": "the code of expert and world"}
        difference = f"{words[name]} is 0123456789ab here, {now[name]} there"
    assert refusal(CONFIG, folder) == (
        f"{folder}: what determines its episodes has changed (here: in the folder, there: now): {difference}. "
        "Go back to what recorded it, or name another folder"
    )
    assert len(find_episodes(folder)) == 1


def test_folders_from_before_are_continued_and_then_told(folder: Path):
    with h5py.File(folder / "episode_0.hdf5", "r+") as root:
        for name in ("scene", "code", "versions", "traits"):
            del root.attrs[name]
    record(CONFIG, folder, 2)
    told = Episode(folder / "episode_1.hdf5").attributes
    tell(folder, scene="only the last one counts")
    assert len(told["scene"]) == len(told["code"]) == 12
    assert record(CONFIG, folder, 2).episodes == 2


def test_a_file_without_a_seed_cannot_be_continued(folder: Path):
    with h5py.File(folder / "episode_0.hdf5", "r+") as root:
        del root.attrs["seed"]
    message = f"{folder}/episode_0.hdf5: has no seed, so the next one is unknown; name another folder"
    assert refusal(CONFIG, folder) == message


def test_other_packages_and_words_of_others_do_not_matter():
    now = versions()
    assert changes({"versions": json.dumps(now | {"h5py": "1.2.3"})}, NOW, now) == []
    assert changes({"versions": "by hand"}, NOW, now) == []


def test_the_code_is_what_it_does_not_how_it_is_written(tmp_path: Path, monkeypatch):
    expert, env = Demonstrator(CONFIG.env_id), TransferCubeEnv()
    before = provenance(env, expert)
    module = sys.modules["demos.motion"]
    source, copy = Path(str(module.__file__)).read_text(), tmp_path / "motion.py"
    monkeypatch.setattr(module, "__file__", str(copy))
    copy.write_text("# another comment\n" + source.replace('"""', '"""Other words. ', 1).replace(" = ", "  =  "))
    assert provenance(env, expert) == before
    copy.write_text(source.replace("RAMP = 8", "RAMP = 9", 1))
    assert copy.read_text() != source
    after = provenance(env, expert)
    assert (after["scene"], after["code"] != before["code"]) == (before["scene"], True)
    env.close()


def test_the_scene_is_all_its_files_without_their_comments(tmp_path: Path, monkeypatch):
    expert, env = Demonstrator(CONFIG.env_id), TransferCubeEnv()
    before = provenance(env, expert)
    assets = Path(shutil.copytree(ASSETS, tmp_path / "assets"))
    monkeypatch.setattr("demos.provenance.ASSETS", assets)
    arm = (assets / "vx300s.xml").read_text()  # a file of a file
    (assets / "vx300s.xml").write_text(arm.replace(">", "><!-- a remark -->", 1))
    assert provenance(env, expert) == before
    (assets / "vx300s.xml").write_text(arm.replace('mass="', 'mass="1', 1))
    assert (assets / "vx300s.xml").read_text() != arm
    assert provenance(env, expert)["scene"] != before["scene"]
    assert provenance(env, expert)["code"] == before["code"]
    env.close()


def test_tasks_and_demonstrators_have_origins_of_their_own():
    cube, insertion = TransferCubeEnv(), InsertionEnv()
    expert, operator = Demonstrator(CONFIG.env_id), Demonstrator(CONFIG.env_id, "plain")
    assert (
        provenance(cube, expert)["scene"]
        == provenance(cube, operator)["scene"]
        != provenance(insertion, expert)["scene"]
    )
    assert len({provenance(*pair)["code"] for pair in ((cube, expert), (cube, operator), (insertion, expert))}) == 3
    cube.close()
    insertion.close()
