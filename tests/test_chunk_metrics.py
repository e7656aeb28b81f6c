"""Laws of what is measured of chunks and latents: distances in cm, bounds of likelihoods, interpolations."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import BLIND, SPEC, TINY, family, write_episodes

from act.chunk_metrics import chunk_metrics, chunks_of, nearest, paths_of, spread
from act.dataset import ChunkDataset
from act.interpolation import interpolate, slerp
from act.policies import Policy, make_policy
from demos.attributes import write_attributes
from demos.episode import Episode, find_episodes
from demos.kinematics import forward_kinematics
from demos.robot import ALOHA
from scripts.pages.policy_inspector import PolicyInspector

K = TINY.chunk_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Demonstrations in two ways."""
    import h5py

    folder = write_episodes(tmp_path_factory.mktemp("data"), lengths=(60, 60, 70))
    for path, way in zip(find_episodes(folder), ("left", "right", "left"), strict=True):
        with h5py.File(path, "a") as file:
            write_attributes(file, {"way": way})
    return folder


def made(name: str, folder: Path, **settings) -> Policy:
    torch.manual_seed(0)
    policy = make_policy(family(name, BLIND, **settings), SPEC)
    policy.fit_normalizer(ChunkDataset(folder, K, cameras=()).stats())
    return policy.eval()


def test_a_demonstrated_chunk_is_its_own_nearest_and_a_turned_joint_moves_it_along_a_circle(folder):
    episode = Episode(find_episodes(folder)[1])
    known = chunks_of(episode, K)
    np.testing.assert_array_equal(known[20], episode.action[20 : 20 + K])
    paths = paths_of(ALOHA, known)
    assert nearest(paths[None, 20:22], paths) == pytest.approx(np.zeros((1, 2)), abs=0.05)
    turned = np.stack([known[20], known[20]])[None]
    turned[0, 1, :, 0] += 0.3  # the left waist, which moves the left end effector alone
    places = forward_kinematics(ALOHA, turned[0])  # (2, K, 2, 3)
    apart = np.linalg.norm((places[1] - places[0])[:, 0], axis=-1)
    expected = 100 * math.sqrt((apart**2).mean() / 2)
    assert spread(paths_of(ALOHA, turned)) == pytest.approx(expected, rel=1e-4)
    assert nearest(paths_of(ALOHA, turned), paths[20:21])[0, 1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["regression", "diffusion"])
def test_chunks_are_measured_for_policies_with_and_without_noise(name, folder):
    paths = find_episodes(folder)
    numbers = chunk_metrics(made(name, folder), paths, paths)
    assert numbers["held_out_nearest_cm"] == pytest.approx(0, abs=0.05), "these were trained on"
    assert numbers["first_nearest_cm"] > 1
    assert (numbers["first_spread_cm"] > 0) == (numbers["later_spread_cm"] > 0) == (name == "diffusion")


def test_between_two_codes_lie_both_ends_and_what_is_between(folder):
    policy = made("act", folder)
    batch = ChunkDataset(folder, K, cameras=(), val_fraction=0).gather(torch.tensor([0, 70]))
    codes = policy.latent(batch)
    assert codes is not None
    seen, shares = batch.observation.repeat(0, 3), torch.tensor([0.0, 0.5, 1.0])
    chunks = interpolate(policy, seen, codes[0], codes[1], shares, from_noise=False)
    for i, code in ((0, codes[0]), (2, codes[1])):
        torch.testing.assert_close(chunks[i : i + 1], policy.decode(batch.observation.repeat(0, 1), code[None]))
    assert (chunks[1] - chunks[0]).abs().max() > 0
    a, b = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    points = slerp(a, 2 * b / b.norm() * a.norm() / 2, torch.linspace(0, 1, 5)[:, None])
    torch.testing.assert_close(points.norm(dim=1), a.norm().expand(5))
    drawn = interpolate(made("gan", folder), seen, torch.ones(4), -torch.eye(4)[0], shares, from_noise=True)
    assert drawn.shape == (3, K, 14)


@pytest.mark.parametrize("name", ["act", "gan"])
def test_the_viewer_draws_the_same_fan_again_and_goes_from_one_code_to_another(name, folder):
    inspector = PolicyInspector(made(name, folder))
    one, other = (Episode(path) for path in find_episodes(folder)[:2])
    fan = inspector.sample(one, 5, {}, 3)
    assert fan.shape == (3, K, 14)
    np.testing.assert_allclose(inspector.sample(one, 5, {}, 2), fan[:2], atol=1e-5)
    if name == "gan":
        ends = [inspector.interpolate(one, 5, {}, (2, 0), share) for share in (0.0, 1.0)]
        np.testing.assert_allclose(ends, fan[[2, 0]], atol=1e-4)
        return
    start, end = (inspector.interpolate(one, 5, {}, other, share) for share in (0.0, 1.0))
    np.testing.assert_allclose(inspector.interpolate(one, 5, {}, one, 1.0), start, atol=1e-5)
    assert np.abs(end - start).max() > 1e-4
