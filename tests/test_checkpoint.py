"""Laws of checkpoints: what is loaded is what was saved, nothing in a file is executed, a misfit is named."""

import dataclasses
import pickle
import random
from pathlib import Path

import pytest
import torch
from tiny import NO_IMAGES, SPEC, TINY

from act.checkpoint import FORMAT, check_env_matches, describe, load_policy, read_checkpoint, to_bytes
from act.errors import ConfigError
from act.policies import GENERATORS, Observation, Policy, make_policy
from act.policies.generators.config import RegressionConfig
from demos.robot import Robot


def make(**settings) -> Policy:
    torch.manual_seed(0)
    policy = make_policy(TINY.replace(**settings), SPEC)
    policy.fit_normalizer(
        {
            key: (torch.randn(dim), torch.rand(dim) + 0.5)
            for key, dim in (policy.encoder.normalizer.dims | policy.head.normalizer.dims).items()
        }
    )
    return policy.eval()


def observe(n: int = 3) -> Observation:
    images = {name: torch.randint(0, 256, (n, *size, 3), dtype=torch.uint8) for name, size in SPEC.cameras.items()}
    return Observation(torch.randn(n, 14), images, torch.randn(n, 7))


def save(path: Path, policy: Policy, /, ema: Policy | None = None, **changes) -> Path:
    averaged = None if ema is None else ema.state_dict()
    path.write_bytes(
        to_bytes({**describe(policy), "weights": policy.state_dict(), "ema": averaged, "step": 7, **changes})
    )
    return path


@pytest.mark.parametrize(
    "settings", [{}, NO_IMAGES, {"cameras": ("wrist",), "generator": RegressionConfig(), "pre_norm": True}]
)
def test_a_loaded_policy_predicts_what_the_saved_one_did(tmp_path, settings):
    policy, seen = make(**settings), observe()
    loaded = load_policy(save(tmp_path / "a.pt", policy), "cpu")
    assert not loaded.training
    assert loaded.settings == policy.settings
    assert loaded.spec == SPEC
    assert torch.equal(loaded.predict(seen), policy.predict(seen))


def test_averaged_weights_are_what_users_get(tmp_path):
    policy, seen = make(**NO_IMAGES), observe()
    averaged = make(**NO_IMAGES)
    torch.nn.init.ones_(averaged.get_parameter("head.joints.bias"))
    loaded = load_policy(save(tmp_path / "a.pt", policy, ema=averaged), "cpu")
    assert torch.equal(loaded.predict(seen), averaged.predict(seen))


def test_imagenet_weights_are_not_downloaded_again(tmp_path, monkeypatch):
    policy = make_policy(TINY.replace(backbone_weights="imagenet", backbone_width=1.0), SPEC, pretrained=False)
    path = save(tmp_path / "a.pt", policy)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    assert load_policy(path, "cpu").spec == SPEC


def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path):
    save(tmp_path / "last.pt", make(chunk_size=4, **NO_IMAGES))
    assert load_policy(tmp_path, "cpu").chunk_size == 4
    save(tmp_path / "best.pt", make(chunk_size=5, **NO_IMAGES))
    assert load_policy(tmp_path, "cpu").chunk_size == 5


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("evil.pt").open("wb") as file:
        pickle.dump({"policy_config": Evil()}, file)
    torch.save({"policy_config": Evil()}, "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(ConfigError, match="is damaged or no checkpoint"):
            read_checkpoint(Path(name))
    assert not Path("executed").exists()


def test_errors_say_what_would_work(tmp_path):
    def message(path: Path) -> str:
        with pytest.raises(ConfigError) as error:
            load_policy(path, "cpu")
        return str(error.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "runs")

    policy = make(**NO_IMAGES)
    whole = save(tmp_path / "a.pt", policy)
    assert message(tmp_path / "b.pt") == (
        "b.pt: no such checkpoint; give a run folder of scripts/train.py, a .pt file in it or demo"
    )
    assert message(tmp_path) == "runs holds no checkpoint yet (best.pt or last.pt); train with --out runs first"
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:-1000])
    assert message(tmp_path / "cut.pt") == "cut.pt is damaged or no checkpoint; use another one of its run"
    torch.save({"model": {}}, tmp_path / "foreign.pt")
    assert message(tmp_path / "foreign.pt") == (
        "foreign.pt is no checkpoint of this toolkit; use one that scripts/train.py wrote"
    )
    save(tmp_path / "new.pt", policy, format=FORMAT + 1)
    assert message(tmp_path / "new.pt") == (
        "new.pt has checkpoint format 3, this version reads 2; use the version that wrote it"
    )
    save(tmp_path / "other.pt", policy, policy="oracle")
    known = ", ".join(GENERATORS)
    assert message(tmp_path / "other.pt") == f"other.pt holds a policy called 'oracle'; this version knows {known}"
    save(tmp_path / "misfit.pt", policy, weights=make().state_dict())
    assert message(tmp_path / "misfit.pt").startswith("misfit.pt does not fit this version (RuntimeError: Error(s)")


def test_an_environment_that_shows_something_else_is_refused():
    def refusal(**changes) -> str:
        with pytest.raises(ConfigError) as error:
            check_env_matches(policy, dataclasses.replace(SPEC, **changes))
        return str(error.value)

    policy = make(cameras=("top",))
    check_env_matches(policy, SPEC)
    # Another name, more cameras or poses that the policy does not look at are no obstacle.
    check_env_matches(policy, dataclasses.replace(SPEC, env_ids=("Mine-v0",), task="mine", env_state_dim=0))
    check_env_matches(policy, dataclasses.replace(SPEC, cameras={"left": (4, 4), "top": (24, 32)}))

    assert refusal(cameras={"left": (24, 32), "wrist": (16, 24)}) == (
        "the policy needs cameras top, the environment has left, wrist; add top to it"
    )
    text = (
        "the policy was trained with other episodes than this environment gives (here: the policy, there: the "
        "environment): %s; make the environment with the policy's values, or train anew"
    )
    assert refusal(cameras={"top": (48, 64)}) == text % "camera top is 24x32 here, 48x64 there"
    assert refusal(robot=dataclasses.replace(SPEC.robot, control_hz=25.0)) == text % "fps is 50 here, 25 there"
    assert "left_waist" in refusal(robot=Robot(SPEC.joint_names[::-1]), action_names=())
    policy = make(**NO_IMAGES)
    with pytest.raises(ConfigError, match="env_state_dim is 7 here, 14 there"):
        check_env_matches(policy, dataclasses.replace(SPEC, env_state_dim=14))


def test_any_flipped_bit_is_noticed(tmp_path):
    whole = save(tmp_path / "a.pt", make(**NO_IMAGES)).read_bytes()
    rng, path = random.Random(0), tmp_path / "flipped.pt"
    comment = len(whole) - len("sha256:") - 64
    for place in [*(rng.randrange(comment) for _ in range(40)), comment - 1, comment + 7, len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(ConfigError, match=r"flipped\.pt is damaged: its digest is another one; use another"):
            read_checkpoint(path)


def test_older_files_without_a_digest_load_with_a_word(tmp_path, caplog):
    policy, seen = make(**NO_IMAGES), observe()
    path = save(tmp_path / "a.pt", policy)
    torch.save(read_checkpoint(path), path)
    assert not caplog.messages
    assert torch.equal(load_policy(path, "cpu").predict(seen), policy.predict(seen))
    assert caplog.messages == [f"{path} has no digest, as older checkpoints: read unchecked"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"spec": None}, "is no whole checkpoint: spec is of another type; use another one of its run"),
        ({"spec": {}}, "does not fit this version \\(EpisodeError: spec lacks cameras; "),
        (
            {"policy_config": {"chunk_size": 10**9}},
            "does not fit this version .*chunk_size is 1000000000; it must be at most 10000",
        ),
        ({"policy_config": {"chunk_size": "x"}}, "does not fit .* chunk_size is 'x'; it must be a whole number"),
        ({"policy_config": {"temperature": 1}}, "does not fit this version \\(TypeError: .*'temperature'"),
        ({"demonstrated_steps": "many"}, "does not fit this version \\(ValueError: "),
    ],
)
def test_contents_are_checked_before_anything_is_built(tmp_path, changes, text):
    with pytest.raises(ConfigError, match=f"a\\.pt {text}"):
        load_policy(save(tmp_path / "a.pt", make(**NO_IMAGES), **changes), "cpu")


@pytest.mark.parametrize("name", ["format", "policy", "spec", "weights"])
def test_a_missing_part_is_named(tmp_path, name):
    contents = read_checkpoint(save(tmp_path / "a.pt", make(**NO_IMAGES)))
    del contents[name]
    (tmp_path / "a.pt").write_bytes(to_bytes(contents))
    with pytest.raises(ConfigError, match=f"a.pt is no whole checkpoint: {name} is missing"):
        load_policy(tmp_path / "a.pt", "cpu")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    policy = make(**NO_IMAGES)
    policy.get_parameter("head.joints.bias").data[3] = value
    with pytest.raises(ConfigError, match=r"a\.pt: weights head\.joints\.bias are NaN or infinite; use another"):
        load_policy(save(tmp_path / "a.pt", policy), "cpu")
