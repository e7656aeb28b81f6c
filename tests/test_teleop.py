"""Laws of teleoperation: commands never jump, helpers and people share the work."""

import time

import numpy as np
import pytest

from demos.ik import BimanualIK, quaternion_matrix, rotation_matrix, rotation_vector
from demos.teleop import ACCELERATION, GRASP_POSES, JOINT_SPEED, SPEED, TeleopAgent
from envs.aloha import ARM_JOINTS, ARMS, FPS, HOME_ACTION

BLIND = {"qpos": HOME_ACTION[None]}
RIGHT = slice(7, 14)


def act(agent: TeleopAgent, steps: int) -> np.ndarray:
    """(steps, 14) commands."""
    return np.concatenate([agent(BLIND) for _ in range(steps)])


@pytest.fixture(scope="module")
def ik() -> BimanualIK:
    return BimanualIK()


# ----------------------------------------------------------------------------------------------------------- following


def test_commands_never_jump_whatever_is_wished(ik):
    rng, agent, commands = np.random.default_rng(0), TeleopAgent(), [HOME_ACTION]
    for _ in range(30):
        for arm in ARMS:
            pose = quaternion_matrix(GRASP_POSES[rng.choice(list(GRASP_POSES))][arm])
            agent.move(
                arm, rng.uniform((-0.9, -0.2, -0.3), (0.9, 1.2, 0.9)), rotation_matrix(rng.normal(0, 1, 3)) @ pose
            )
            agent.grip(arm, rng.uniform(-1, 2))
        commands += list(act(agent, 40))
    change = np.abs(np.diff(commands, axis=0)) * FPS
    assert np.delete(change, [6, 13], axis=1).max() <= JOINT_SPEED * 1.001
    for side, arm in enumerate(ARMS):
        joints = np.array(commands)[:, 7 * side : 7 * side + 6].astype(np.float64)
        limits = np.stack([ik.model.joint(f"{arm}_{name}").range for name in ARM_JOINTS])
        assert (joints >= limits[:, 0] - 1e-6).all()
        assert (joints <= limits[:, 1] + 1e-6).all()


def test_a_tool_goes_nearly_straight_to_its_wish_at_bounded_speed_and_acceleration(ik):
    agent = TeleopAgent()
    start, rotation, _ = agent.target("right")
    goal = start + [-0.05, 0.08, -0.12]
    agent.move("right", goal, rotation)
    commands = act(agent, 80)
    path = np.stack([start] + [ik.forward("right", command[7:13].astype(float))[0] for command in commands])
    velocity = np.diff(path, axis=0) * FPS
    assert np.linalg.norm(velocity, axis=1).max() < 1.05 * SPEED
    assert np.linalg.norm(np.diff(velocity, axis=0), axis=1).max() * FPS < 1.2 * ACCELERATION
    np.testing.assert_allclose(path[-1], goal, atol=1e-3)
    direction = (goal - start) / np.linalg.norm(goal - start)
    aside = (path - start) - np.outer((path - start) @ direction, direction)
    assert np.linalg.norm(aside, axis=1).max() < 5e-3
    assert not agent.followers["right"].out_of_reach
    np.testing.assert_array_equal(commands[:, :7], np.tile(HOME_ACTION[:7], (80, 1)))  # the other arm stays


def test_what_is_out_of_reach_is_told_and_left_again(ik):
    agent = TeleopAgent()
    start, rotation, _ = agent.target("left")
    follower = agent.followers["left"]
    agent.move("left", np.array([0.9, 0.5, 0.3]), rotation)
    act(agent, 150)
    assert follower.out_of_reach
    assert follower.distance > 0.2
    agent.move("left", start, rotation)
    act(agent, 150)
    assert not follower.out_of_reach
    np.testing.assert_allclose(ik.forward("left", follower.joints)[0], start, atol=2e-3)


def test_an_arm_tells_which_joints_stand_at_their_limit():
    agent = TeleopAgent()
    position, rotation, _ = agent.target("left")
    agent.move("left", position, rotation_matrix(np.array([0.0, -3.0, 0.0])) @ rotation)
    act(agent, 200)
    assert "wrist_angle" in agent.followers["left"].at_limit


@pytest.mark.parametrize("arm", ARMS)
def test_a_tool_turned_down_on_its_way_leaves_the_forearm_unrolled(arm, ik):
    """Else demonstrations have two modes: the wrist of a level tool is stretched, where forearm and wrist can trade."""
    for place in ((0.05, 0.45, 0.1), (0.2, 0.6, 0.05), (0.0, 0.4, 0.05)):
        agent = TeleopAgent()
        position = np.array(place) * [1 if arm == "right" else -1, 1, 1]
        down = quaternion_matrix(GRASP_POSES["down"][arm])
        agent.move(arm, position, down)
        act(agent, 150)
        joints = agent.followers[arm].joints
        at, facing = ik.forward(arm, joints)
        np.testing.assert_allclose(at, position, atol=1e-3)
        assert np.linalg.norm(rotation_vector(down @ facing.T)) < 0.01
        assert abs(joints[3]) < 0.1


def test_wishes_stay_above_the_table():
    agent = TeleopAgent()
    _, rotation, _ = agent.target("left")
    agent.move("left", np.array([-0.1, 0.5, -0.2]), rotation)
    assert agent.target("left")[0][2] > 0


def test_latency_is_counted_from_the_wish_to_the_next_command():
    agent = TeleopAgent()
    agent.nudge("left", np.array([0.01, 0, 0]))
    time.sleep(0.02)
    agent.nudge("left", np.array([0.01, 0, 0]))  # the first of them counts
    act(agent, 2)
    assert len(agent.latencies) == 1
    assert 0.02 <= agent.latencies[0] < 0.2


# -------------------------------------------------------------------------------------------------------------- helpers


class Sweep:
    """A helper whose commands tell how often it was asked."""

    cameras = ("top",)

    def reset(self, seeds, observation):
        self.t = 0

    def needs_images(self):
        return True

    def __call__(self, observation):
        self.t += 1
        return (HOME_ACTION + np.float32(0.001 * self.t))[None]


def test_a_helper_moves_its_arm_and_waits_when_told():
    agent = TeleopAgent(Sweep(), ("left",))
    agent.reset([0], BLIND)
    assert agent.human_arms == ("right",)
    assert agent.human
    np.testing.assert_allclose(act(agent, 3)[:, 0], HOME_ACTION[0] + [0.001, 0.002, 0.003], atol=1e-6)
    agent.helper_waits = True
    np.testing.assert_allclose(act(agent, 3)[:, 0], HOME_ACTION[0] + 0.003, atol=1e-6)
    assert agent.still_steps == 3
    agent.helper_waits = False
    assert agent.still_steps == 0
    commands = act(agent, 1)
    np.testing.assert_allclose(commands[:, 0], HOME_ACTION[0] + 0.004, atol=1e-6)
    np.testing.assert_array_equal(commands[0, RIGHT], HOME_ACTION[RIGHT])
    assert agent.human


def test_taking_over_begins_where_the_policy_was_and_is_told():
    agent = TeleopAgent(Sweep())
    agent.reset([0], BLIND)
    assert agent.needs_images()
    before = act(agent, 50)
    assert not agent.human
    np.testing.assert_allclose(before[-1], HOME_ACTION + 0.05, atol=1e-6)
    agent.take_over()
    after = act(agent, 20)
    assert agent.human
    assert not agent.needs_images()
    np.testing.assert_allclose(after, np.tile(before[-1], (20, 1)), atol=1e-4)  # nobody wished for anything yet
    agent.reset([1], BLIND)
    assert not agent.human


def test_taking_over_while_the_policy_thinks_begins_where_it_then_leads():
    """Not where its command before led: that would be a jump back."""
    agent = TeleopAgent(Sweep())

    class Interrupted(Sweep):
        def __call__(self, observation) -> np.ndarray:
            agent.take_over()  # from the page's thread, while this one computes
            return super().__call__(observation) + 0.2

    agent.helper = Interrupted()
    agent.reset([0], BLIND)
    commands = act(agent, 3)
    assert np.abs(commands[0] - HOME_ACTION).max() > 0.15
    assert np.abs(np.delete(commands[1] - commands[0], [6, 13])).max() < JOINT_SPEED / FPS
    np.testing.assert_allclose(commands[2], commands[0], atol=1e-3)
    assert agent.human
