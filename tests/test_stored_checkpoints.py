"""Checkpoints of every family that an older version wrote (tests/stored/checkpoints) predict what they predicted.

The files were written when policies, settings and parameters had other names. `expected.npz` holds inputs, losses in
evaluation mode and predictions of that version, without noise and with the noise of seed 5.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from act.checkpoint import FORMAT, load_policy, read_checkpoint
from act.policies import GENERATORS, Batch, Observation
from act.stored_names import RENAMED_PARAMETERS, current_parameter

STORED = Path(__file__).with_name("stored") / "checkpoints"
NAMES = sorted(path.stem for path in STORED.glob("*.pt"))
RENAMED_LOSSES = {"place": "ee_position", "fooled": "generator_loss", "slope": "r1", "nats": "nll"}


def stored(name: str) -> dict[str, torch.Tensor]:
    with np.load(STORED / "expected.npz") as arrays:
        own = [key for key in arrays.files if key.startswith(f"{name}/")]
        return {key.removeprefix(f"{name}/"): torch.from_numpy(arrays[key]) for key in own}


def below(values: dict[str, torch.Tensor], folder: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(folder): value for key, value in values.items() if key.startswith(folder)}


def test_every_family_is_stored():
    assert {name.rpartition("-")[0] for name in NAMES} == set(GENERATORS)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_an_older_version_predicts_what_it_predicted(name):
    given, policy = stored(name), load_policy(STORED / f"{name}.pt", "cpu")
    images, instruction = below(given, "images/"), given.get("instruction")
    observation = Observation(given["qpos"], images, given["env_state"], instruction=instruction)
    batch = Batch(observation, given["action"], given["is_pad"], keyframe=given["keyframe"])
    torch.manual_seed(11)
    with torch.no_grad():
        losses = policy(batch)
    wanted = {RENAMED_LOSSES.get(key, key): value for key, value in below(given, "losses/").items()}
    assert losses.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-4, atol=1e-5)
    noise = torch.randn(5, policy.noise_dim, generator=torch.Generator().manual_seed(5)) if policy.noise_dim else None
    torch.testing.assert_close(policy.predict(observation), given["predict"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy.predict(observation, noise), given["sample"], rtol=1e-4, atol=1e-5)
    assert policy.demonstrated_steps == 123


def test_every_parameter_gets_its_new_name_once():
    for name in NAMES:
        old = torch.load(STORED / f"{name}.pt", map_location="cpu", weights_only=True)
        assert old["format"] == FORMAT - 1
        new = read_checkpoint(STORED / f"{name}.pt")["weights"]
        assert len(new) == len(old["weights"])
        assert not old["weights"].keys() & new.keys()
        assert [current_parameter(key) for key in new] == list(new)
    assert not {current_parameter(new) for new in RENAMED_PARAMETERS.values()} - set(RENAMED_PARAMETERS.values())
