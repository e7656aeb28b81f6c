"""The laws of ACT: what must hold whatever the weights are."""

import copy
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from einops import repeat
from tiny import BLIND, THREE_CAMERAS, TINY, descend, make, make_batch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as their_kl

from act.normalizer import MIN_STD, Normalizer
from act.policies import GENERATORS, Batch, Observation, Policy, PolicySettings, make_policy
from act.policies.actions import masked_l1
from act.policies.generators.config import RegressionConfig
from act.policies.generators.cvae import CVAE, kl_divergence
from act.policies.transformer import Attention, Encoder, sinusoid_1d, sinusoid_2d
from demos.robot import ALOHA
from demos.spec import EpisodeSpec

LATENT_DIM, KL_WEIGHT = 4, 10.0


def losses_and_gradients(policy: Policy, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    torch.manual_seed(1)
    policy.zero_grad()
    losses = policy(batch)
    losses["loss"].backward()
    return {name: value.item() for name, value in losses.items()}, {
        name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None
    }


def test_kl_equals_torch_distributions():
    mu, logvar, prior_mu, prior_logvar = torch.randn(4, 5, 8)
    expected = their_kl(Normal(mu, (logvar / 2).exp()), Normal(prior_mu, (prior_logvar / 2).exp()))
    torch.testing.assert_close(kl_divergence(mu, logvar, prior_mu, prior_logvar), expected)
    zero = torch.zeros(5, 8)
    standard = their_kl(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mu, logvar, zero, zero), standard)


def test_loss_is_l1_plus_weighted_kl_summed_over_the_latent_and_averaged_over_the_batch():
    policy, batch = make(), make_batch()
    losses = policy(batch)
    figures = policy.diagnostics(batch)
    per_dim = [value for name, value in figures.items() if name.startswith("kl_dim/")]
    assert len(per_dim) == LATENT_DIM
    assert losses["kl"].item() == pytest.approx(sum(per_dim), rel=1e-5)
    torch.testing.assert_close(losses["loss"], losses["l1"] + KL_WEIGHT * losses["kl"])


def test_masked_l1_is_the_mean_over_valid_cells():
    prediction, target, is_pad = torch.randn(4, 6, 14), torch.randn(4, 6, 14), torch.rand(4, 6) < 0.5
    expected = (prediction - target).abs()[~is_pad].mean()
    torch.testing.assert_close(masked_l1(prediction, target, is_pad), expected)
    assert masked_l1(prediction, target, torch.ones(4, 6, dtype=torch.bool)) == 0


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_padded_actions_move_neither_loss_nor_gradient(garbage: float, pre_norm: bool):
    policy, batch = make(BLIND.replace(pre_norm=pre_norm, n_vae_encoder_layers=2)), make_batch()
    spoiled = copy.deepcopy(batch)
    spoiled.action[batch.is_pad] = garbage
    assert batch.is_pad.any()
    (losses, gradients), (losses_2, gradients_2) = (losses_and_gradients(policy, b) for b in (batch, spoiled))
    assert losses == losses_2
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_2[name]), name


def test_padding_a_chunk_does_not_change_the_posterior_of_what_remains():
    """The key-padding mask at work: a chunk cut short by padding is encoded as if the rest were not there."""
    encoder = Encoder(2, 16, 2, 32, 0.0, False)
    x, position = torch.randn(2, 9, 16), torch.randn(9, 16)
    is_pad = repeat(torch.arange(9) >= 6, "l -> b l", b=2)
    torch.testing.assert_close(encoder(x, position, is_pad)[:, :6], encoder(x[:, :6], position[:6]))


def test_every_parameter_receives_gradient_at_any_depth():
    policy = make(TINY.replace(n_decoder_layers=3, n_encoder_layers=2, n_vae_encoder_layers=2, use_env_state=True))
    _, gradients = losses_and_gradients(policy, make_batch())
    assert gradients.keys() == {name for name, p in policy.named_parameters() if p.requires_grad}
    for i in range(3):
        layer = [g for name, g in gradients.items() if name.startswith(f"generator.transformer.decoder.layers.{i}.")]
        assert sum(g.abs().sum() for g in layer) > 0
        feed_forward = gradients[f"generator.transformer.decoder.layers.{i}.feed_forward.0.weight"]
        assert feed_forward.abs().sum() > 0


@pytest.mark.parametrize(
    "config", [BLIND, TINY, BLIND.replace(generator=RegressionConfig())], ids=["blind", "images", "no vae"]
)
def test_one_batch_can_be_overfitted(config: PolicySettings):
    policy, batch = make(config.replace(kl_weight=0.1) if config.policy == "act" else config), make_batch()
    first = policy(batch)["l1"].item()
    descend(policy, batch, 120)
    assert policy(batch)["l1"].item() < 0.2 * first
    error = (policy.eval().predict(batch.observation) - batch.action).abs()[~batch.is_pad].mean()
    assert error < 0.4 * first  # with z = 0, and running statistics in place of the batch's


def test_regression_has_no_posterior_and_no_kl():
    policy = make(TINY.replace(generator=RegressionConfig()))
    assert not any("posterior" in name or "latent" in name for name in policy.state_dict())
    losses = policy(make_batch())
    assert losses.keys() == {"loss", "l1"}
    assert torch.equal(losses["loss"], losses["l1"])


def test_the_auxiliary_loss_teaches_the_keypoints_poses_and_inference_needs_none():
    config, batch = TINY.replace(keypoints=4, keypoint_stride=8, pose_weight=2.0), make_batch()
    policy = make(config)
    assert policy.encoder.vision is not None
    assert policy.encoder.pose_head is not None
    losses = policy(batch)
    torch.testing.assert_close(losses["loss"], losses["l1"] + KL_WEIGHT * losses["kl"] + 2 * losses["pose"])
    losses["pose"].backward()
    taught = {name.split(".")[1] for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"vision", "pose_head"}
    assert all(p.grad is not None and p.grad.any() for p in policy.encoder.vision.keypoints.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in policy.encoder.vision.projections.parameters())

    descend(policy, batch, 150, "pose")
    assert policy(batch)["pose"] < 0.2 * losses["pose"]

    unseen = replace(batch.observation, env_state=None)
    assert torch.equal(policy.eval().predict(unseen), policy.predict(batch.observation))
    without = Policy(config, replace(THREE_CAMERAS, env_state_dim=0))
    assert without.encoder.pose_head is None
    assert without(replace(batch, observation=unseen)).keys() == {"loss", "l1", "kl"}


def test_inference_is_deterministic_and_does_not_see_actions():
    policy, batch = make(TINY.replace(dropout=0.1)).eval(), make_batch()
    state = torch.get_rng_state()
    actions = policy.predict(batch.observation)
    assert actions.shape == (3, TINY.chunk_size, 14)
    assert torch.equal(actions, policy.predict(batch.observation))
    assert torch.equal(state, torch.get_rng_state()), "inference must draw nothing"
    assert not actions.requires_grad


def test_predictions_are_in_physical_units():
    policy, batch = make(BLIND).eval(), make_batch()
    before = policy.predict(batch.observation)
    mean, std = np.linspace(-1, 1, 14), np.linspace(0.1, 2, 14)
    unit = (np.zeros(14), np.ones(14))
    policy.fit_normalizer({"qpos": unit, "action": (mean, std), "env_state": (np.zeros(7), np.ones(7))})
    expected = before * torch.tensor(std).float() + torch.tensor(mean).float()
    torch.testing.assert_close(policy.predict(batch.observation), expected)


def test_evaluation_losses_are_deterministic_and_z0_is_what_inference_does():
    policy, batch = make(BLIND).eval(), make_batch()
    first, second = (policy(batch) for _ in range(2))
    assert torch.equal(first["loss"], second["loss"])
    error = (policy.predict(batch.observation) - batch.action).abs()[~batch.is_pad].mean()
    assert policy.diagnostics(batch)["l1_z0"] == pytest.approx(error.item(), rel=1e-5)


def test_active_units_count_the_dimensions_that_vary():
    policy, batch = make(BLIND), make_batch(16)
    assert policy.diagnostics(batch)["active_units"] > 0
    assert isinstance(policy.generator, CVAE)
    nn.init.zeros_(policy.generator.posterior.head.weight)
    nn.init.zeros_(policy.generator.posterior.head.bias)
    collapsed = policy.diagnostics(batch)
    assert collapsed["active_units"] == 0
    assert collapsed["posterior_std"] == 1
    assert [collapsed[f"kl_dim/{i:02d}"] for i in range(LATENT_DIM)] == [0.0] * LATENT_DIM


def two_ways(config: PolicySettings) -> Batch:
    """Of two ways, one for each half of the batch, the observation tells nothing."""
    given = make_batch(32).observation
    assert given.env_state is not None
    images = {name: frames[:1].expand(32, -1, -1, -1) for name, frames in given.images.items()}
    observation = Observation(given.qpos[:1].repeat(32, 1), images, given.env_state[:1].repeat(32, 1))
    way = torch.tensor([-1.0, 1.0]).repeat_interleave(16)
    return Batch(
        observation, way[:, None, None].expand(-1, config.chunk_size, 14), torch.zeros(32, 6, dtype=torch.bool)
    )


@pytest.mark.parametrize(
    "settings",
    [pytest.param({"keypoints": 4}, marks=pytest.mark.slow), {"cameras": (), "use_env_state": True}],
    ids=["images", "blind"],
)
def test_a_learned_prior_tells_of_z_what_the_observation_tells(settings: dict):
    """z tells which way was taken, chance takes one of them."""
    torch.manual_seed(0)
    config = TINY.replace(**settings, prior="learned", kl_weight=0.02)
    policy, batch = make(config), two_ways(config)
    descend(policy, batch, 150)
    assert policy(batch)["l1"] < 0.1
    assert 0.5 < policy(batch)["kl"] < 3.0  # ln 2 = 0.69 nats are needed, a few more are cheap
    figures = policy.eval().diagnostics(batch)
    assert 1 <= figures["active_units"] <= LATENT_DIM
    drawn = policy.predict(batch.observation, torch.randn(32, LATENT_DIM)).mean(dim=(1, 2))
    assert (drawn.abs() > 0.8).float().mean() > 0.7  # hardly anything between the ways
    assert 6 <= (drawn > 0).sum() <= 26


@pytest.mark.parametrize("prior", [pytest.param("standard", marks=pytest.mark.slow), "learned"])
def test_free_nats_keep_the_way_in_z_at_any_price(prior: Literal["standard", "learned"]):
    torch.manual_seed(0)
    config = BLIND.replace(prior=prior, kl_weight=10.0, free_nats=1.0)
    dear, policy, batch = make(config.replace(free_nats=0.0)), make(config), two_ways(config)
    for each in (dear, policy):
        descend(each, batch, 150)
    assert dear(batch)["l1"] > 0.9  # neither way
    assert dear(batch)["kl"] < 0.01
    assert policy(batch)["l1"] < 0.4
    assert 0.6 < policy(batch)["kl"] < 1.2
    losses = make(config)(batch)
    torch.testing.assert_close(losses["loss"], losses["l1"] + 10 * losses["kl"].clamp(min=1.0))


def test_a_standard_prior_draws_around_zero():
    policy, observation = make(BLIND).eval(), make_batch().observation
    assert policy.noise_dim == LATENT_DIM
    assert torch.equal(policy.predict(observation), policy.predict(observation, torch.zeros(3, LATENT_DIM)))
    assert not torch.equal(policy.predict(observation), policy.predict(observation, torch.ones(3, LATENT_DIM)))
    assert make(BLIND.replace(generator=RegressionConfig())).noise_dim == 0


def test_state_dict_round_trip_carries_the_normaliser():
    policy, other = make(seed=0).eval(), make(seed=1).eval()
    policy.fit_normalizer({"qpos": (np.ones(14), np.full(14, 2)), "action": (np.zeros(14), np.full(14, 3))})
    observation = make_batch().observation
    assert not torch.equal(policy.predict(observation), other.predict(observation))
    other.load_state_dict(policy.state_dict())
    assert torch.equal(policy.predict(observation), other.predict(observation))


def test_a_copy_is_independent():
    policy = make()
    twin = copy.deepcopy(policy)
    assert torch.equal(policy.eval().predict(make_batch().observation), twin.eval().predict(make_batch().observation))


@pytest.mark.parametrize(("n_decoder_layers", "millions"), [(1, 52), (7, 84)])
def test_parameter_counts_of_the_paper(n_decoder_layers: int, millions: int):
    spec = EpisodeSpec(ALOHA, {"top": (480, 640)})
    config = PolicySettings(n_decoder_layers=n_decoder_layers, backbone_weights="none")
    assert (config.d_model, config.n_heads, config.ffn_dim, config.chunk_size) == (512, 8, 3200, 100)
    count = sum(parameter.numel() for parameter in Policy(config, spec).parameters())
    assert round(count / 1e6) == millions


@pytest.mark.parametrize("config", [TINY, BLIND.replace(pre_norm=True)], ids=["images", "blind"])
def test_bfloat16_autocast_is_close_to_float32(config: PolicySettings):
    policy, batch = make(config), make_batch()
    exact, exact_gradients = losses_and_gradients(policy, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, gradients = losses_and_gradients(policy, batch)
        actions = policy.eval().predict(batch.observation)
    assert rounded["l1"] == pytest.approx(exact["l1"], rel=0.02)
    assert rounded["kl"] == pytest.approx(exact["kl"], rel=0.02)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    a, b = (torch.cat([g.flatten() for g in gs.values()]) for gs in (exact_gradients, gradients))
    assert torch.cosine_similarity(a, b, dim=0) > 0.98
    assert actions.dtype == torch.float32
    torch.testing.assert_close(actions, policy.predict(batch.observation), rtol=0, atol=0.05)


def test_attention_equals_the_textbook():
    attention = Attention(16, 2, dropout=0.0)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    reference = nn.MultiheadAttention(16, 2, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.load_state_dict(attention.out.state_dict())
    torch.testing.assert_close(attention(query, key, value), reference(query, key, value)[0])


def test_attention_that_is_shown_is_the_one_that_is_computed():
    torch.manual_seed(0)
    attention = Attention(16, 4, dropout=0.0).eval()
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    weights = attention.weights(query, key)  # (2, 4, 5, 7)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 5))
    values = attention.value(value).unflatten(-1, (4, 4)).transpose(1, 2)  # (2, 4, 7, 4)
    answer = attention.out((weights @ values).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(answer, attention(query, key, value))


def test_a_policy_tells_where_it_looks_what_it_reads_off_and_its_latent():
    policy, batch = make(TINY.replace(keypoints=5)).eval(), make_batch()
    maps = policy.attention(batch.observation)
    assert policy.encoder.vision is not None
    grids = {name: (3, *grid) for name, grid in policy.encoder.vision.grids.items()}
    assert {name: tuple(heat.shape) for name, heat in maps.items()} == grids
    shares = torch.stack([heat.sum(dim=(1, 2)) for heat in maps.values()]).sum(dim=0)
    assert ((shares > 0) & (shares < 1)).all()  # the rest goes to the vectors and the keypoints
    places = policy.keypoints(batch.observation)
    assert {name: tuple(found.shape) for name, found in places.items()} == dict.fromkeys(
        THREE_CAMERAS.cameras, (3, 5, 2)
    )
    assert all(found.abs().max() <= 1 for found in places.values())
    latent = policy.latent(batch)
    assert latent is not None
    assert latent.shape == (3, LATENT_DIM)
    losses = policy(batch)
    assert losses["kl"] >= latent.square().sum(dim=1).mean() / 2  # the part of the KL that the mean alone makes
    blind = make(BLIND).eval()
    assert blind.attention(batch.observation) == blind.keypoints(batch.observation) == {}
    assert make(TINY.replace(generator=RegressionConfig())).latent(batch) is None


def test_sinusoids():
    table = sinusoid_1d(50, 8)
    assert table.shape == (50, 8)
    torch.testing.assert_close(table[3, :2], torch.tensor([np.sin(3.0), np.cos(3.0)], dtype=torch.float32))
    torch.testing.assert_close(table[3, 2], torch.tensor(3 / 10000 ** (2 / 8)).sin())
    small, large = sinusoid_2d(3, 4, 16), sinusoid_2d(6, 8, 16)
    assert small.shape == (12, 16)
    assert len(torch.unique(small.round(decimals=4), dim=0)) == 12, "every place has its own code"
    torch.testing.assert_close(small[-1], large[-1])  # normalised: corners agree whatever the size


def test_normaliser_takes_statistics_and_clips_the_std():
    normalizer = Normalizer({"qpos": 3})
    x = torch.randn(5, 3)
    assert torch.equal((x - normalizer.qpos_mean) / normalizer.qpos_std, x), "the identity until it is fitted"
    normalizer.fit({"qpos": ([1.0, 2.0, 3.0], [2.0, 0.0, 0.5]), "unused": ([0.0], [1.0])})
    assert normalizer.state_dict()["qpos_mean"].tolist() == [1.0, 2.0, 3.0]
    assert normalizer.state_dict()["qpos_std"].tolist() == pytest.approx([2.0, MIN_STD, 0.5])


def test_each_generator_is_built_from_its_config():
    for name, (kind, _) in GENERATORS.items():
        settings = BLIND.replace(generator=kind())
        assert settings.policy == name
        assert type(settings).from_dict(name, settings.to_dict()) == settings
        generator = make_policy(settings, THREE_CAMERAS).generator
        assert generator.loss.__qualname__.partition(".")[0] == type(generator).__name__
    policy = make_policy(BLIND, THREE_CAMERAS)
    assert (policy.chunk_size, policy.cameras, policy.uses_env_state) == (6, (), True)
    assert make_policy(TINY, THREE_CAMERAS).cameras == ("top", "left", "right")
    assert PolicySettings(cameras=["top"]).cameras == ("top",), "settings read from JSON"  # pyright: ignore


def test_noise_on_the_joint_positions_is_for_training_only():
    batch = make_batch()
    noisy = make(BLIND.replace(qpos_noise=1.0, generator=RegressionConfig()))
    first, second = (noisy(batch)["loss"] for _ in range(2))
    assert first != second
    noisy.eval()
    torch.testing.assert_close(noisy(batch)["loss"], noisy(batch)["loss"], rtol=0, atol=0)
    quiet = make(BLIND.replace(generator=RegressionConfig())).eval()
    torch.testing.assert_close(noisy(batch)["loss"], quiet(batch)["loss"], rtol=0, atol=0)
