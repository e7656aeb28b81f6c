"""Laws of bringing tools to places."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import PLACES, THREE_CAMERAS, descend, make_batch

from act.errors import ConfigError
from act.policies import ACTConfig, ACTPolicy, Batch, Observation
from act.reach import moving_tools, reach, tools
from demos.kinematics import tool_positions
from demos.robot import ALOHA_JOINTS, Robot
from envs.aloha import HOME_ACTION


@pytest.fixture
def joints() -> torch.Tensor:
    return torch.rand(3, 5, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def some_batch() -> Batch:
    return replace(make_batch(2), keyframe=torch.rand(2, 8, generator=torch.Generator().manual_seed(0)))


def test_tools_are_where_the_kinematics_put_them_and_move_as_their_derivative_says(joints):
    places, jacobian = moving_tools(joints)
    assert torch.equal(places, tools(joints))
    np.testing.assert_allclose(places.flatten(-2), tool_positions(joints.numpy()), atol=1e-12)
    derivative = torch.as_tensor(torch.autograd.functional.jacobian(tools, joints[0, 0]))  # (2, 3, 14)
    for arm in range(2):
        own = derivative[arm, :, 7 * arm : 7 * arm + 6].T
        torch.testing.assert_close(jacobian[0, 0, arm], own)


def test_reach_brings_the_tools_there_with_small_turns(joints):
    away = torch.full((3, 5, 2, 3), 0.01, dtype=torch.float64)
    reached = reach(joints, tools(joints) + away)
    missed = (tools(reached) - tools(joints) - away).norm(dim=-1)
    assert missed.median() < 1e-5
    assert missed.max() < 1e-3
    assert (reached - joints).abs().max() < 0.25
    torch.testing.assert_close(reached[..., [5, 6, 12, 13]], joints[..., [5, 6, 12, 13]])


def test_a_policy_brings_the_tools_to_the_places_it_tells():
    policy, batch = ACTPolicy(PLACES, THREE_CAMERAS).eval(), some_batch()
    assert policy.place_head is not None
    losses = policy(batch)
    torch.testing.assert_close(losses["loss"], losses["l1"] + losses["keyframe"] + losses["place"])
    home = torch.from_numpy(HOME_ACTION)
    added, now, goal = [0.1, 0.0, 0.05], [0.5, 0.0, 0.25], [0.25, 1.0, 0.5]
    with torch.no_grad():
        policy.action_head.weight.zero_()
        policy.action_head.bias.copy_(home)
        policy.place_head.weight.zero_()
        policy.place_head.bias.copy_(torch.tensor([*added, *now, *goal] * 2))
        keyframe = torch.tensor([0.3, 0.1, 0.25, 1.0, 0.35, -0.1, 0.3, 1.0])
        last = policy.keyframe_head[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.zero_()
        last.bias.copy_(keyframe)
    observation = Observation(home.expand(2, -1), batch.observation.images)
    places = tools(policy.predict(observation))
    told = torch.tensor(now) * tools(home) + torch.tensor(goal) * keyframe.view(2, 4)[:, :3] + torch.tensor(added)
    torch.testing.assert_close(places, told.expand_as(places), atol=1e-3, rtol=0)


def test_places_of_older_checkpoints_are_told_as_they_were():
    policy, batch = ACTPolicy(PLACES, THREE_CAMERAS).eval(), some_batch()
    weights, old = policy.state_dict(), torch.nn.Linear(policy.config.d_model, 8)
    policy.load_state_dict({**weights, "place_head.weight": old.weight, "place_head.bias": old.bias})
    decoded, keyframe = torch.randn(2, 5, policy.config.d_model), torch.rand(2, 8)
    told = old(decoded).view(2, 5, 2, 4)
    expected = told[..., :3] + told[..., 3:] * keyframe.view(2, 1, 2, 4)[..., :3]
    found = policy._places(decoded, batch.observation.qpos, keyframe)
    torch.testing.assert_close(found, expected.flatten(-2))


def test_places_are_learnt_and_unknown_robots_have_none():
    policy, batch = ACTPolicy(PLACES, THREE_CAMERAS), some_batch()
    before = policy(batch)["place"]
    descend(policy, batch, 60)
    assert policy(batch)["place"] < 0.6 * before
    other = replace(THREE_CAMERAS, robot=Robot.from_joint_names([f"{name}_of_mine" for name in ALOHA_JOINTS]))
    assert ACTPolicy(PLACES, other).place_head is None
    with pytest.raises(ConfigError, match="no keyframes to measure places from"):
        ACTConfig(place_weight=1.0)
