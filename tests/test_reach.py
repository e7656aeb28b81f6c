"""Laws of bringing tools to places."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import PLACES, THREE_CAMERAS, descend, make_batch

from act.checkpoint import upgrade_state_dict
from act.errors import ConfigError
from act.policies import Batch, Observation, Policy, PolicySettings
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


def test_a_policy_brings_the_tools_to_the_positions_it_predicts():
    policy, batch = Policy(PLACES, THREE_CAMERAS).eval(), some_batch()
    assert policy.head.ee_positions is not None
    losses = policy(batch)
    torch.testing.assert_close(losses["loss"], losses["l1"] + losses["keyframe"] + losses["ee_position"])
    home = torch.from_numpy(HOME_ACTION)
    added, now, goal = [0.1, 0.0, 0.05], [0.5, 0.0, 0.25], [0.25, 1.0, 0.5]
    with torch.no_grad():
        policy.head.joints.weight.zero_()
        policy.head.joints.bias.copy_(home)
        policy.head.ee_positions.weight.zero_()
        policy.head.ee_positions.bias.copy_(torch.tensor([*added, *now, *goal] * 2))
        keyframe = torch.tensor([0.3, 0.1, 0.25, 1.0, 0.35, -0.1, 0.3, 1.0])
        assert policy.encoder.keyframe_head is not None
        last = policy.encoder.keyframe_head[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.zero_()
        last.bias.copy_(keyframe)
    observation = Observation(home.expand(2, -1), batch.observation.images)
    places = tools(policy.predict(observation))
    told = torch.tensor(now) * tools(home) + torch.tensor(goal) * keyframe.view(2, 4)[:, :3] + torch.tensor(added)
    torch.testing.assert_close(places, told.expand_as(places), atol=1e-3, rtol=0)


def test_ee_positions_of_older_checkpoints_are_predicted_as_they_were():
    policy, batch = Policy(PLACES, THREE_CAMERAS).eval(), some_batch()
    d, old = policy.settings.d_model, torch.nn.Linear(policy.settings.d_model, 8)
    weights = {"head.ee_positions.weight": old.weight.detach(), "head.ee_positions.bias": old.bias.detach()}
    policy.load_state_dict(upgrade_state_dict(policy.state_dict() | weights, policy))
    decoded, goal = torch.randn(2, 5, d), torch.rand(2, 2, 3)
    encoded = replace(policy.encoder(batch.observation), ee_goal=goal)
    read = old(decoded).view(2, 5, 2, 4)
    expected = read[..., :3] + read[..., 3:] * goal[:, None]
    torch.testing.assert_close(policy.head(decoded, encoded)[..., 14:], expected.flatten(-2))


def test_ee_positions_are_learnt_and_unknown_robots_have_none():
    policy, batch = Policy(PLACES, THREE_CAMERAS), some_batch()
    before = policy(batch)["ee_position"]
    descend(policy, batch, 60)
    assert policy(batch)["ee_position"] < 0.6 * before
    other = replace(THREE_CAMERAS, robot=Robot.from_joint_names([f"{name}_of_mine" for name in ALOHA_JOINTS]))
    assert not Policy(PLACES, other).predicts_ee_positions
    with pytest.raises(ConfigError, match="--ee-position-weight 0"):
        PolicySettings(keypoints=4, ee_position_weight=1.0)
