"""Laws of the comparison of families: distances are cm, bounds are bounds, and the page shows what cells hold."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import BLIND, SPEC, TINY, family, write_episodes

from act.dataset import ChunkDataset
from act.interpolation import interpolate, slerp
from act.policies import POLICIES, ACTPolicy, Policy, make_policy
from demos.attributes import write_attributes
from demos.episode import Episode, find_episodes
from envs.results import EpisodeResult, summarize
from scripts.benchmarks import family_page
from scripts.benchmarks.family_figures import Known, figures, likelihood, paths_of, spreads
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
    policy.normalizer.fit(ChunkDataset(folder, K, cameras=()).stats())
    return policy.eval()


def test_a_demonstrated_chunk_is_its_own_nearest_and_a_shift_is_its_length(folder):
    known = Known(folder, K)
    episode = Episode(find_episodes(folder)[1])
    chunk = episode.action[20 : 20 + K]
    distance, way = known.nearest(chunk[None, None])
    assert distance == pytest.approx(0, abs=0.05)
    assert way == [["right"]]
    flat = paths_of(chunk)
    assert flat.shape == (K, 6)
    turned = np.stack([chunk, chunk])[None]
    turned[0, 1, :, 0] += 0.3  # the left waist turns, so that tool alone moves
    apart = np.linalg.norm(paths_of(turned[0, 1])[:, :3] - flat[:, :3], axis=1)
    assert spreads(turned, np.array([["a", "a"]]))["within_cm"] == pytest.approx(
        100 * math.sqrt((apart**2).mean() / 2), rel=1e-4
    )
    assert spreads(turned, np.array([["a", "b"]]))["between_cm"] == pytest.approx(
        100 * math.sqrt((apart**2).mean() / 2), rel=1e-4
    )


@pytest.mark.parametrize("name", POLICIES)
def test_every_family_has_its_figures(name, folder):
    told, drawn = figures(made(name, folder, use_vae=True), folder, folder)
    assert drawn.shape[1:] == (K, 14)
    assert sum(told["begin"]["ways"].values()) == pytest.approx(1)
    assert told["begin"]["nearest_shown_cm"] == pytest.approx(0, abs=0.05), "what was learnt from is its own nearest"
    assert told["begin"]["nearest_cm"] > 1
    kind = {"flow": "exact", "autoregressive": "exact", "act": "bound, 64 draws"}
    kind |= {"regression": "noise around one answer"}
    assert told["likelihood"]["kind"] == kind.get(name, "none")
    assert ("nats" in told["likelihood"]) == (name in kind)
    json.dumps(told)


def test_a_bound_rises_with_draws_and_is_exact_without_a_latent(folder):
    batch = ChunkDataset(folder, K, cameras=(), val_fraction=0).gather(torch.tensor([0, 10, 70]))
    policy = ACTPolicy(replace(BLIND, use_vae=True), SPEC).eval()
    torch.manual_seed(0)
    few, many = (torch.stack([policy.log_likelihood_bound(batch, n, 0.5) for _ in range(50)]).mean() for n in (1, 50))
    assert few < many
    plain = ACTPolicy(replace(BLIND, use_vae=False), SPEC).eval()
    with torch.no_grad():
        scale = float(plain(batch)["l1"])
    nats = plain.log_likelihood_bound(batch, 3, scale).mean() / (14 * K)
    assert float(nats) == pytest.approx(-math.log(2 * scale) - 1, rel=1e-4)


def test_the_likelihood_of_tokens_is_a_density(folder):
    """Where all coefficients are tokens, it is theirs alone, spread over their bins."""
    batch = ChunkDataset(folder, K, cameras=(), val_fraction=0).gather(torch.tensor([0, 10, 70]))
    policy = made("autoregressive", folder, coefficients=K)
    told = likelihood(policy, batch)["nats"]
    bins = policy.log_likelihood(batch)
    assert bins is not None
    assert told == pytest.approx(float(bins.mean()) / (14 * K) - math.log(policy.config.resolution), rel=1e-4)


def test_between_two_codes_lie_both_ends_and_what_is_between(folder):
    policy = made("act", folder, use_vae=True)
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


def test_the_page_shows_what_the_cells_hold(tmp_path):
    for seed, successes in ((1, 1), (2, 3)):
        for kind, times in (("ensemble", 4), ("halves", 4), ("scenes", 4)):
            ways = ("left", "right", "left", "")
            results = [
                EpisodeResult(7 if kind == "scenes" else i, i < successes, True, 4, 9, 8, 1.0, ways[i])
                for i in range(times)
            ]
            found = {"settings": {}, "summary": summarize(results), "episodes": [vars(each) for each in results]}
            path = tmp_path / "rollouts" / f"there_gan_{seed}_{kind}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found))
        begin = {"ways": {"left": 0.25, "right": 0.75}, "nearest_cm": 2.0 + seed, "nearest_shown_cm": 1.0}
        begin |= {"within_cm": 2.0, "between_cm": None if seed == 2 else 8.0}
        cell = {
            "cell": {"family": "gan", "data": "there", "seed": seed},
            "begin": begin,
            "later": {"nearest_cm": 1.5, "nearest_shown_cm": 1.0, "spread_cm": 0.5},
            "likelihood": {"kind": "none"},
            "between": None,
            "training": {"diverged": seed == 2, "gradient_spike": 4.0 + seed, "last": {"val/critic": seed / 2}},
        }
        (tmp_path / "figures").mkdir(exist_ok=True)
        (tmp_path / "figures" / f"there_gan_{seed}.json").write_text(json.dumps(cell))
    written = family_page.write(tmp_path, ["gan"], ["there"])
    text = re.sub(" +", " ", written)
    assert "| gan | 50 % | 22 to 78 | 25, 75 |" in text
    assert "left 38 %, right 12 %" in text, "shares of all rollouts"
    assert "1 of 2" in text, "of the two policies at one beginning, one went both ways"
    assert "left 25 %, right 75 %" in text
    assert "| 3.5 |" in text, "the mean of the trainings"
    assert "2.0, 8.0" in text
    assert "| gan | 1 of 2 | 5.0, 6.0 | – | 0.500, 1.000 | – |" in text, "how calm each training was"
    assert (tmp_path / "there.png").stat().st_size > 10_000
    assert (tmp_path / "families.md").read_text() == written + "\n"


@pytest.mark.parametrize("name", ["act", "gan"])
def test_the_viewer_draws_the_same_fan_again_and_goes_from_one_code_to_another(name, folder):
    inspector = PolicyInspector(made(name, folder, use_vae=True))
    one, other = (Episode(path) for path in find_episodes(folder)[:2])
    fan = inspector.drawn(one, 5, {}, 3)
    assert fan.shape == (3, K, 14)
    np.testing.assert_allclose(inspector.drawn(one, 5, {}, 2), fan[:2], atol=1e-5)
    if name == "gan":
        ends = [inspector.between(one, 5, {}, (2, 0), share) for share in (0.0, 1.0)]
        np.testing.assert_allclose(ends, fan[[2, 0]], atol=1e-4)
        return
    start, end = (inspector.between(one, 5, {}, other, share) for share in (0.0, 1.0))
    np.testing.assert_allclose(inspector.between(one, 5, {}, one, 1.0), start, atol=1e-5)
    assert np.abs(end - start).max() > 1e-4
