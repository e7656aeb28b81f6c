"""Laws of runs that move, and of runs that start from another one: what counts is what was learnt from, not where."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_train_script import call
from tiny import SPEC, write_episodes

from act.checkpoint import load_policy, read_checkpoint
from act.errors import ConfigError
from act.run_folder import RunFolder, find_data
from demos.spec import EpisodeError

TINY = "--preset paper --cameras wrist --chunk-size 6 --d-model 16 --n-heads 2 --ffn-dim 32 --latent-dim 4"
TINY += (
    " --backbone-weights none --backbone-width 0.125 --backbone-stride 16 --n-vae-encoder-layers 1 --n-encoder-layers 1"
)
ONCE = "--steps 2 --batch-size 2 --log-every 1 --device cpu --threads 1 --wandb disabled --dtype float32"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data/ and run/, which was trained from within."""
    place = tmp_path_factory.mktemp("place")
    write_episodes(place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert call("--data", "data", "--out", "run", *TINY.split(), *ONCE.split()) == 0
    return place


@pytest.fixture
def moved(place, tmp_path) -> Path:
    """The same in another folder, the first one gone."""
    shutil.copytree(place, tmp_path / "new")
    settings = json.loads((tmp_path / "new/run/config.json").read_text())
    settings["data"] = [str(tmp_path / "gone")]
    (tmp_path / "new/run/config.json").write_text(json.dumps(settings))
    return tmp_path / "new"


def resume(out: Path | str, *words: object) -> int | None:
    return call("--out", str(out), "--resume", "--steps", "3", "--wandb", "disabled", *map(str, words))


def refusal(*words: object) -> str:
    with pytest.raises((ConfigError, EpisodeError)) as error:
        call(*map(str, words))
    return str(error.value)


def test_a_run_and_its_data_that_moved_together_go_on(moved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resume("new/run") == 0
    assert RunFolder(moved / "run").history()[-1]["step"] == 3
    assert RunFolder(moved / "run").settings()["data"] == [str(moved / "data")]  # pyright: ignore[reportOptionalSubscript]


def test_data_that_moved_alone_are_given_again(moved, tmp_path):
    (moved / "data").rename(moved / "elsewhere")
    looked = f"{tmp_path}/gone or {moved}/data"
    line = f"the data of the run in {moved}/run are not in {looked}; say where they are with --data"
    assert refusal("--out", moved / "run", "--resume") == line
    assert resume(moved / "run", "--data", moved / "elsewhere") == 0


def test_an_older_run_is_found_from_the_folder_that_it_was_started_in(tmp_path, monkeypatch):
    (tmp_path / "home/data/cube").mkdir(parents=True)
    run = tmp_path / "home/runs/cube"
    run.mkdir(parents=True)
    assert find_data({"data": ["data/cube"]}, run) == (tmp_path / "home/data/cube",)
    for damaged in ({}, {"data": "data"}, {"data": [1]}):
        with pytest.raises(ConfigError, match=r"config\.json is damaged \(data is"):
            find_data(damaged, run)


def test_an_older_run_goes_on_by_the_checksum_it_has(moved):
    folder = RunFolder(moved / "run")
    settings = folder.settings()
    assert settings is not None
    for name in ("episodes_checksum", "data_from_run", "init"):
        del settings[name]
    folder.config.write_text(json.dumps(settings))
    assert resume(moved / "run", "--data", moved / "data") == 0
    folder.config.write_text(json.dumps(settings | {"data_checksum": 1}))
    assert "data_checksum 1 there, " in refusal("--out", moved / "run", "--resume", "--data", moved / "data")


def test_the_same_episodes_of_which_another_version_made_other_targets_are_told(moved, capsys):
    folder = RunFolder(moved / "run")
    folder.config.write_text(json.dumps((folder.settings() or {}) | {"data_checksum": 1}))
    assert resume(moved / "run") == 0
    assert "the episodes are unchanged, but this version derives other targets from them" in capsys.readouterr().out


def test_other_episodes_are_refused_and_init_named(moved, tmp_path):
    run, more = moved / "run", write_episodes(tmp_path / "more", lengths=(20, 25, 30, 22))
    rest = (
        f"use its settings and --resume to continue it, or another --out with --init {run}, to start from its weights"
    )
    line = f"{run} holds a run with other settings (episodes 3 there, 4 now); {rest}"
    assert refusal("--out", run, "--resume", "--data", more) == line
    other = write_episodes(tmp_path / "other", lengths=(20, 25, 31))
    assert "(episodes_checksum " in refusal("--out", run, "--resume", "--data", other)


def test_a_new_run_starts_where_another_one_is(place, tmp_path, capsys):
    more, out = write_episodes(tmp_path / "more", lengths=(20, 25, 30, 40)), tmp_path / "run"
    words = ["--data", str(more), "--out", str(out), "--init", str(place / "run"), "--preset", "paper", *ONCE.split()]
    assert call(*words, "--lr", "1e-30", "--weight-decay", "0") == 0
    assert f"starting from the weights of {place}/run/best.pt" in capsys.readouterr().out
    before, after = load_policy(place / "run", "cpu"), load_policy(out, "cpu")
    weights = after.state_dict()
    assert all(torch.allclose(value, weights[name], atol=1e-6) for name, value in before.named_parameters())
    for part, other in ((before.encoder, after.encoder), (before.head, after.head)):
        for name, value in part.normalizer.state_dict().items():  # the statistics of the first data
            torch.testing.assert_close(other.normalizer.state_dict()[name], value)
    assert before.settings == after.settings
    assert after.demonstrated_steps >= 34 > before.demonstrated_steps - 6
    assert RunFolder(out).settings()["init"] == str(place / "run")  # pyright: ignore[reportOptionalSubscript]

    # Its own checkpoint counts from now on, wherever the first run is.
    assert resume(out, "--init", tmp_path / "gone") == 0
    assert read_checkpoint(out / "last.pt")["step"] == 3
    assert RunFolder(out).settings()["init"] == str(place / "run")  # pyright: ignore[reportOptionalSubscript]


def test_what_does_not_fit_is_named(place, tmp_path):
    words = ["--data", place / "data", "--init", place / "run", "--preset", "paper", *ONCE.split()]
    out = tmp_path / "run"
    line = refusal(*words, "--out", out, "--d-model", 32)
    start = f"{place}/run/best.pt does not fit the new run: d_model 16 → 32; use its settings and --init, or train anew"
    assert line == start
    assert "cameras wrist → top" in refusal(*words, "--out", out, "--cameras", "top")
    family = "is a policy of the family act, and --init cannot make it another one (gan)"
    assert refusal(*words, "--out", out, "--policy", "gan") == f"{place}/run {family}"
    assert "no such checkpoint" in refusal(*words, "--out", out, "--init", tmp_path / "none")
    assert not (out / "config.json").exists()


def test_data_without_the_cameras_of_the_first_run_are_refused(place, tmp_path):
    from dataclasses import replace

    blind = write_episodes(tmp_path / "data", spec=replace(SPEC, cameras={"top": (24, 32)}))
    words = ["--data", blind, "--out", tmp_path / "run", "--init", place / "run", *ONCE.split()]
    assert "camera wrist is not in" in refusal(*words)
