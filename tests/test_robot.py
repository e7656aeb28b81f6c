"""Laws of robots as data: any arms, units, rates and action semantics, read from names, JSON, MJCF or URDF."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_episode import STEPS, write_original
from test_grippers import demonstration

from act.kinematics import correct_to_ee_positions, forward_kinematics_and_jacobian
from act.kinematics import forward_kinematics as forward_kinematics_in_torch
from demos.episode import Episode, check_dataset
from demos.grasps import find_failed_grasps
from demos.guesses import guess_semantics, is_aloha, with_units_of
from demos.hindsight import active_steps, intended_mask, keyframe_dim, keyframe_parts, keyframes
from demos.kinematics import forward_kinematics
from demos.robot import ALOHA, Arm, Chain, Link, Robot
from demos.robot_files import read_robot, robot_from_model
from demos.spec import ActionSemantics, EpisodeError, EpisodeSpec
from demos.writer import EpisodeWriter
from envs.bimanual import ASSETS
from envs.gl import mujoco

SKEW = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="base" pos="0.3 -0.2 0.1" quat="0.9 0.1 0.3 0.2">
      <body pos="0 0 0.2" quat="0.7 0 0.7 0"><geom size="0.01"/>
        <joint name="turn" axis="1 2 -0.5" pos="0.02 0.01 0" range="-2 2"/>
        <body pos="0.1 0.2 0"><geom size="0.01"/>
          <joint name="rail" type="slide" axis="0 -1 0" ref="0.1" range="-0.3 0.4"/>
          <joint name="bend" axis="-1 0 0" ref="0.4" range="-1 3"/>
          <body name="palm" pos="0.3 0 0.05"><geom size="0.01"/>
            <body pos="0.05 0.02 0"><geom size="0.01"/><joint name="finger_a" type="slide" axis="0 1 0" range="0 0.04"/></body>
            <body pos="0.05 -0.02 0"><geom size="0.01"/><joint name="finger_b" type="slide" axis="0 -1 0" range="0 0.04"/></body>
          </body>
        </body>
      </body>
    </body>
    <body name="thing" pos="1 0 0"><freejoint/><geom size="0.02"/></body>
  </worldbody>
</mujoco>
"""  # noqa: E501
ARM = """
<body pos="{x} 0 0.1"><geom size="0.01"/><joint name="{name}_shoulder" axis="0 1 0" range="-2 2"/>
  <body pos="0.2 0 0"><geom size="0.01"/><joint name="{name}_elbow" axis="0 0 1" range="-2 2"/>
    <body pos="0.2 0 0.1"><geom size="0.01"/><joint name="{name}_wrist" axis="0 1 0" range="-2 2"/>
      <site name="{name}_tcp" pos="0.1 0 0"/>{gripper}</body></body></body>"""
JAW = '<body pos="0.05 0 0"><geom size="0.01"/><joint name="{name}_jaw" axis="0 0 1" range="0 1"/></body>'
URDF = """
<robot name="two_links">
  <link name="base"/><link name="upper"><visual><geometry><mesh filename="missing.stl"/></geometry></visual></link>
  <link name="lower"/>
  <joint name="pan" type="revolute"><parent link="base"/><child link="upper"/><origin xyz="0 0 0.3" rpy="0 0 0.5"/>
    <axis xyz="0 0 1"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
  <joint name="lift" type="prismatic"><parent link="upper"/><child link="lower"/><origin xyz="0.2 0 0" rpy="0.3 0 0"/>
    <axis xyz="1 0 0"/><limit lower="0" upper="0.5" effort="1" velocity="1"/></joint>
</robot>"""


def model_of(arms: int, torso: bool = False) -> mujoco.MjModel:  # pyright: ignore[reportAttributeAccessIssue]
    """Arms beside each other, the last without a gripper where there are three."""
    bodies = []
    for i in range(arms):
        name = f"arm{i}"
        bodies.append(ARM.format(x=i, name=name, gripper="" if i == 2 else JAW.format(name=name)))
    inside = "".join(bodies)
    if torso:
        inside = f'<body><geom size="0.01"/><joint name="torso" axis="0 0 1" range="-1 1"/>{inside}</body>'
    return mujoco.MjModel.from_xml_string(f'<mujoco><compiler angle="radian"/><worldbody>{inside}</worldbody></mujoco>')


MODELS = {
    "ALOHA": lambda: mujoco.MjModel.from_xml_path(str(ASSETS / "transfer_cube.xml")),
    "skew axes, offsets, a slide": lambda: mujoco.MjModel.from_xml_string(SKEW),
    "one arm": lambda: model_of(1),
    "two arms on a torso": lambda: model_of(2, torso=True),
}


def configurations(model, robot: Robot, n: int = 20) -> tuple[np.ndarray, list]:
    """Joint positions (n, J) within the limits, and MuJoCo's state of each."""
    rng, states = np.random.default_rng(0), []
    low, high = np.array(robot.limits).T
    qpos = rng.uniform(low, high, (n, len(low)))
    for values in qpos:
        data = mujoco.MjData(model)
        for name, value in zip(robot.joint_names, values, strict=True):
            data.joint(name).qpos[0] = value
        mujoco.mj_kinematics(model, data)
        states.append(data)
    return qpos, states


def in_base(model, data, robot: Robot, arm: Arm, palm: int, point: np.ndarray) -> np.ndarray:
    """A point of a body in the frame of the body that carries the arm's first joint."""
    assert arm.chain is not None
    first = model.joint(robot.joint_names[arm.chain.links[0].joint]).bodyid[0]
    base = model.body_parentid[first]
    world = data.xpos[palm] + data.xmat[palm].reshape(3, 3) @ point
    return data.xmat[base].reshape(3, 3).T @ (world - data.xpos[base])


# Kinematics


@pytest.mark.parametrize("name", MODELS)
def test_forward_kinematics_are_those_of_mujoco(name: str):
    """Any point that is fixed to the palm moves as MuJoCo moves it, so distances to where it starts are equal."""
    model = MODELS[name]()
    robot = robot_from_model(model)
    qpos, states = configurations(model, robot)
    tools = forward_kinematics(robot, qpos)
    rest = mujoco.MjData(model)
    mujoco.mj_kinematics(model, rest)
    at_rest = np.array([rest.joint(joint).qpos[0] for joint in robot.joint_names])
    for i, arm in enumerate(robot.arms):
        assert arm.chain is not None
        palm = model.joint(robot.joint_names[arm.chain.links[-1].joint]).bodyid[0]
        origin = in_base(model, rest, robot, arm, palm, np.zeros(3))
        base_turn = [in_base(model, rest, robot, arm, palm, unit) - origin for unit in np.eye(3)]
        point = np.array(base_turn) @ (forward_kinematics(robot, at_rest)[i] - origin)  # in the palm's frame
        for tool, data in zip(tools[:, i], states, strict=True):
            np.testing.assert_allclose(tool, in_base(model, data, robot, arm, palm, point), atol=1e-12)
    in_torch = forward_kinematics_in_torch(robot, torch.from_numpy(qpos))
    np.testing.assert_allclose(in_torch, tools, atol=1e-12)


def test_what_is_read_from_the_simulated_station_is_what_is_known_of_it():
    robot = robot_from_model(MODELS["ALOHA"](), ALOHA.joint_names)
    assert [(arm.name, arm.joints, arm.gripper) for arm in robot.arms] == [
        (arm.name, arm.joints, arm.gripper) for arm in ALOHA.arms
    ]
    qpos = np.random.default_rng(0).uniform(-1, 1, (20, 14))
    np.testing.assert_allclose(forward_kinematics(robot, qpos), forward_kinematics(ALOHA, qpos), atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_jacobian_is_that_of_finite_differences(name: str):
    model = MODELS[name]()
    robot = robot_from_model(model)
    qpos = torch.from_numpy(configurations(model, robot, 5)[0])
    tools, moves = forward_kinematics_and_jacobian(robot, qpos)
    assert moves.shape[:-2] == tools.shape[:-1]
    for i, arm in enumerate(robot.arms):
        for k, column in enumerate(arm.joints):
            nudge = torch.zeros(qpos.shape[1], dtype=torch.float64)
            nudge[column] = 1e-6
            ahead, behind = (forward_kinematics_in_torch(robot, qpos + sign * nudge)[:, i] for sign in (1, -1))
            torch.testing.assert_close(moves[:, i, k], (ahead - behind) / 2e-6, atol=1e-8, rtol=0)


@pytest.mark.parametrize("arms", [1, 2, 3])
def test_any_number_of_arms_is_brought_to_positions(arms: int):
    model = model_of(arms)
    robot = robot_from_model(model)
    assert (len(robot.arms), len(robot.grippers)) == (arms, min(arms, 2))
    qpos = torch.from_numpy(configurations(model, robot)[0])
    action = torch.cat([qpos, torch.ones(len(qpos), 2)], dim=-1)  # two columns that are no joints
    target = forward_kinematics_in_torch(robot, qpos + 0.05)
    corrected = correct_to_ee_positions(robot, action, target)
    left = (forward_kinematics_in_torch(robot, corrected) - target).norm(dim=-1)
    assert left.median() < 1e-4
    others = [*robot.grippers, -2, -1]
    assert torch.equal(corrected[:, others], action[:, others])


@pytest.mark.parametrize(("unit", "scale"), [("deg", 180 / np.pi), ("percent", 100 / 2), ("fraction", 1 / 4)])
def test_joints_in_other_units_are_where_they_are_in_rad(unit, scale):
    robot = robot_from_model(model_of(2))  # limits ±2 rad
    arms = [column for arm in robot.arms for column in arm.joints]
    other = replace(robot, units=tuple(unit if i in arms else known for i, known in enumerate(robot.units)))
    qpos = torch.from_numpy(configurations(model_of(2), robot)[0])
    given = qpos.clone()
    given[:, arms] = given[:, arms] * scale + (0.5 if unit == "fraction" else 0)
    tools, moves = forward_kinematics_and_jacobian(robot, qpos)
    same, slower = forward_kinematics_and_jacobian(other, given)
    torch.testing.assert_close(same, tools)
    torch.testing.assert_close(slower * scale, moves)
    np.testing.assert_allclose(forward_kinematics(other, given.numpy()), tools, atol=1e-12)


def test_units_are_those_that_keep_the_limits():
    robot = robot_from_model(model_of(1))
    qpos = configurations(model_of(1), robot)[0]
    turned = qpos.copy()
    turned[:, :3] = np.degrees(turned[:, :3])
    assert with_units_of(robot, qpos) == (robot, "")
    found, note = with_units_of(robot, turned)
    assert found.units == ("deg", "deg", "deg", "rad")
    assert "degrees" in note


# Files


@pytest.mark.parametrize("robot", [ALOHA, Robot(("a",), units=("percent",), limits=((0.0, 1.0),), control_hz=20.0)])
def test_robots_survive_json(robot: Robot):
    assert Robot.from_json(robot.to_json()) == robot


@pytest.mark.parametrize("name", MODELS)
def test_robots_of_models_survive_json(name: str, tmp_path: Path):
    robot = robot_from_model(MODELS[name]())
    (tmp_path / "robot.json").write_text(robot.to_json())
    assert read_robot(tmp_path / "robot.json") == robot
    turned = robot.joint_names[::-1]
    assert read_robot(tmp_path / "robot.json", turned).reordered(robot.joint_names) == robot


def test_urdf_is_read_without_its_meshes(tmp_path: Path):
    (tmp_path / "arm.urdf").write_text(URDF)
    robot = read_robot(tmp_path / "arm.urdf", control_hz=30)
    assert (robot.joint_names, robot.units, robot.control_hz) == (("pan", "lift"), ("rad", "m"), 30)
    assert robot.limits == ((-1, 1), (0, 0.5))
    turn = 0.5 + 0.7
    expected = np.array([np.cos(turn), np.sin(turn), 0]) * (0.2 + 0.4) + [0, 0, 0.3]
    at_first = forward_kinematics(robot, np.array([0.7, 0.4]))[0]
    turned_back = np.array([[np.cos(0.5), np.sin(0.5), 0], [-np.sin(0.5), np.cos(0.5), 0], [0, 0, 1]])
    assert any(np.allclose(at_first, place, atol=1e-9) for place in (expected, turned_back @ expected))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"joint_names": ["a", "a"]}, ["joint_names", "['a', 'a']"]),
        ({"control_hz": 0}, ["control_hz", "0"]),
        ({"units": ["turns", "rad"]}, ["units", "turns"]),
        ({"limits": [[1, 0], None]}, ["limits", "[1.0, 0.0]"]),
        ({"speed": 1}, ["speed"]),
        ({"arms": [{"name": "x", "joints": ["c"]}]}, ["arms[0].joints", "c", "a, b"]),
        ({"arms": [{"name": "x", "joints": ["a"], "gripper": "a"}]}, ["arms", "[0, 0]"]),
        (
            {"arms": [{"name": "x", "joints": ["a"], "chain": {"links": [{"joint": "a", "axis": "w"}]}}]},
            ["arms[0].chain.links[0].axis", "w", "-z"],
        ),
    ],
)
def test_mistakes_in_a_robot_are_named(change: dict, words: list[str], tmp_path: Path):
    path = tmp_path / "robot.json"
    path.write_text(json.dumps({"joint_names": ["a", "b"]} | change))
    with pytest.raises(EpisodeError) as caught:
        read_robot(path)
    assert all(word in str(caught.value) for word in [str(path), *words])
    assert "\n" not in str(caught.value)


# Names


@pytest.mark.parametrize(
    ("names", "arms"),
    [
        (["a", "b"], []),
        ([*(f"j{i}" for i in range(7)), "gripper"], [((0, 1, 2, 3, 4, 5, 6), 7)]),
        (["pan", "lift", "l_gripper_finger", "r_gripper_finger"], [((0, 1), 2)]),
        (["robot0_j1", "gripper0_finger", "robot1_j1", "gripper1_finger"], [((0,), 1), ((2,), 3)]),
        (["torso", "l_a", "l_hand", "r_a", "r_hand"], [((1,), 2), ((3,), 4)]),
        (["left_a", "right_a", "left_jaw", "right_jaw"], [((0,), 2), ((1,), 3)]),
    ],
)
def test_arms_and_grippers_are_found_by_name(names, arms):
    assert [(arm.joints, arm.gripper) for arm in Robot.from_joint_names(names).arms] == arms


def test_fourteen_unnamed_joints_are_aloha_only_if_their_numbers_say_so(tmp_path: Path):
    radians = np.random.default_rng(0).uniform(-1, 1, (20, 14))
    radians[:, [6, 13]] = np.abs(radians[:, [6, 13]])
    degrees = np.degrees(radians)
    in_metres = radians.copy()
    in_metres[:, [6, 13]] *= 0.08
    assert is_aloha(radians, radians, None)
    assert not is_aloha(degrees, degrees, 50.0)
    assert not is_aloha(in_metres, in_metres, 50.0)
    assert not is_aloha(radians, radians, 15.0)
    for scale, known in ((1.0, True), (57.0, False)):
        write_original(tmp_path / f"episode_{scale:.0f}.hdf5", scale=scale)
        robot = Episode(tmp_path / f"episode_{scale:.0f}.hdf5").spec.robot
        assert (robot.has_kinematics, robot.name == "aloha") == (known, known)


def test_eight_columns_are_not_cut_in_half():
    unnamed = Robot(tuple(f"joint_{i}" for i in range(8)))
    arm = Robot.from_joint_names([*(f"joint_{i}" for i in range(7)), "gripper"])
    assert keyframe_parts(unnamed) == keyframe_parts(arm) == [tuple(range(8))]
    assert keyframe_parts(Robot.from_joint_names([f"{name}_of_mine" for name in ALOHA.joint_names])) == [
        tuple(range(7)),
        tuple(range(7, 14)),
    ]


def test_a_robot_is_written_to_each_file_and_actions_may_be_others(tmp_path: Path):
    robot = robot_from_model(model_of(1), control_hz=20)
    spec = EpisodeSpec(robot, {}, task="lift", action_semantics="relative_ee", action_names=("dx", "dy", "dz", "jaw"))
    path = tmp_path / "episode_0.hdf5"
    with EpisodeWriter(path, spec) as writer:
        for t in range(5):
            writer.append({"qpos": np.full(4, t / 10)}, np.full(4, 0.1))
        writer.close(success=True)
    episode = Episode(path)
    assert episode.spec == spec == EpisodeSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert (episode.action.shape, spec.action_grippers, episode.qvel) == ((5, 4), (3,), None)
    assert episode.notes == ()
    [difference] = spec.differences(replace(spec, action_semantics="absolute_ee"))
    assert "relative_ee here, absolute_ee there" in difference


# Hindsight


def spec_at(hz: float, semantics: ActionSemantics = "absolute_joints", limits=((0.0, 1.0),) * 14) -> EpisodeSpec:
    names = [name.replace("left", "a").replace("right", "b") for name in ALOHA.joint_names]
    return EpisodeSpec(replace(Robot.from_joint_names(names, hz), limits=limits), {}, action_semantics=semantics)


def test_hindsight_is_the_same_at_another_rate():
    action, qpos = demonstration(0.0, 0.5, away=0.1)
    action, qpos = (np.concatenate([each, np.repeat(each[-1:], 100, axis=0)]) for each in (action, qpos))
    t = np.arange(0, len(action) - 1, 2.5)  # 20 Hz
    slow, slow_qpos = (
        np.stack([np.interp(t, np.arange(len(each)), column) for column in each.T], axis=1) for each in (action, qpos)
    )
    (fast_failed,) = find_failed_grasps(action, qpos, spec_at(50))
    (slow_failed,) = find_failed_grasps(slow, slow_qpos, spec_at(20))
    assert [slow_failed.start / 20, slow_failed.stop / 20] == pytest.approx(
        [fast_failed.start / 50, fast_failed.stop / 50], abs=0.1
    )
    active = (
        active_steps(action, qpos, spec_at(50), 50).sum() / 50,
        active_steps(slow, slow_qpos, spec_at(20), 20).sum() / 20,
    )
    assert active[0] == pytest.approx(active[1], rel=0.15)
    fast, coarse = keyframes(action, qpos, spec_at(50)), keyframes(slow, slow_qpos, spec_at(20))
    near = np.abs(coarse - fast[np.round(t).astype(int)]).max(axis=1) < 0.1
    assert near.mean() > 0.9


def test_relative_actions_say_what_absolute_ones_say():
    """The same motion, perfectly followed: as targets, and as changes."""
    _, qpos = demonstration(0.3, 0.5, away=0.4)
    qpos = np.concatenate([qpos, np.repeat(qpos[-1:], 100, axis=0)])
    reached = np.concatenate([qpos[1:], qpos[-1:]])
    absolute, relative = spec_at(50), spec_at(50, "relative_joints")
    np.testing.assert_allclose(
        keyframes(reached - qpos, qpos, relative)[:, :13], keyframes(reached, qpos, absolute)[:, :13], atol=0.02
    )
    idle = active_steps(reached, qpos, absolute, 10), active_steps(reached - qpos, qpos, relative, 10)
    assert (idle[0] == idle[1]).mean() > 0.95
    assert not idle[1].all()


def test_a_failed_grasp_is_found_in_what_was_observed_and_its_steps_are_left_out():
    _, qpos = demonstration(0.0, 0.5, away=0.1)
    relative = spec_at(50, "relative_joints")
    action = np.diff(qpos, axis=0, append=qpos[-1:])
    (failed,) = find_failed_grasps(action, qpos, relative)
    assert failed.start == pytest.approx(30, abs=6)
    keep = intended_mask(action, qpos, relative, [failed])
    assert (keep == keep[:, :1]).all()
    assert not keep[35:65].any()
    same = demonstration(0.3, 0.5)[1]
    assert find_failed_grasps(same, same, relative) == []
    unlimited = spec_at(50, "relative_joints", limits=())
    assert find_failed_grasps(action, qpos, unlimited) == []  # a thin thing might have been held


@pytest.mark.parametrize(("scale", "shift"), [(-2.0, 1.0), (0.01, 0.0), (-255.0, 255.0)])
def test_a_gripper_may_be_commanded_in_another_unit_and_direction_than_it_is_read(scale: float, shift: float):
    for thicknesses in ((0.0, 0.5), (0.3, 0.5)):
        action, qpos = demonstration(*thicknesses, away=0.1)
        other = action.copy()
        other[:, 13] = scale * action[:, 13] + shift
        usual, found = (find_failed_grasps(each, qpos, spec_at(50)) for each in (action, other))
        assert [(each.start, each.stop) for each in found] == [(each.start, each.stop) for each in usual]
        before, now = (keyframes(each, qpos, spec_at(50))[:, :13] for each in (action, other))
        np.testing.assert_array_equal(now, before)


def test_an_end_effector_as_qpos_is_a_robot_of_three_slides():
    chain = Chain((Link(0, "x", slides=True), Link(1, "y", slides=True), Link(2, "z", slides=True)))
    robot = Robot(("x", "y", "z", "gripper"), (Arm("arm", (0, 1, 2), 3, chain),), 25)
    qpos = np.random.default_rng(0).normal(size=(30, 4))
    np.testing.assert_array_equal(forward_kinematics(robot, qpos)[:, 0], qpos[:, :3])
    assert keyframe_dim(robot) == 4


# What the numbers say of actions


@pytest.mark.parametrize("semantics", ["absolute_joints", "relative_joints"])
def test_the_semantics_of_joint_actions_are_seen(semantics):
    robot, t = Robot(("a", "b", "c")), np.arange(200)
    qpos = np.stack([np.sin(t / 15), np.cos(t / 22), np.sin(t / 9)], axis=1)
    ahead = qpos[np.minimum(t + 3, 199)]
    action = ahead if semantics == "absolute_joints" else 5 * np.diff(qpos, axis=0, append=qpos[-1:])
    assert guess_semantics(qpos, action, robot)[0] == semantics


@pytest.mark.parametrize("semantics", ["absolute_ee", "relative_ee"])
def test_the_semantics_of_end_effector_actions_are_seen(semantics):
    robot, t = robot_from_model(model_of(1)), np.arange(300)
    qpos = 0.5 * np.stack([np.sin(t / 15), np.cos(t / 22), np.sin(t / 19), np.sin(t / 40)], axis=1)
    tools = forward_kinematics(robot, qpos)[:, 0]
    action = tools[np.minimum(t + 2, 299)] if semantics == "absolute_ee" else np.diff(tools, axis=0, append=tools[-1:])
    guess, why = guess_semantics(qpos, action, robot)
    assert guess == semantics
    assert "fewer actions than joints" in why


def test_what_is_guessed_is_guessed_of_all_episodes_together(tmp_path: Path):
    paths = []
    for i, scale in enumerate((1.0, 1.0, 57.0)):
        paths.append(tmp_path / f"episode_{i}.hdf5")
        write_original(paths[-1], scale=scale)
    assert check_dataset(paths).robot == ALOHA
    assert len(Episode(paths[0], robot=Robot(tuple(f"mine_{i}" for i in range(14)))).action) == STEPS
    with pytest.raises(EpisodeError, match="has 14 joints; the given robot has 2"):
        check_dataset(paths, robot=Robot(("a", "b")))
