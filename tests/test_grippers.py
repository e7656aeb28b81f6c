"""Laws of failed grasps: what closed on nothing and was tried again is found, and nothing else is taken for one."""

import time
import tracemalloc

import numpy as np
import pytest

from act.grippers import closing_sign, find_failed_grasps
from act.keyframes import as_meant, keyframes, meant_steps, moving_steps
from demos.robot import ALOHA_GRIPPER_RANGE as GRIPPER_RANGE
from demos.spec import ALOHA_JOINTS

UNKNOWN = tuple(name.replace("left", "a").replace("right", "b") for name in ALOHA_JOINTS)
WAIST, GRIPPER = 7, 13  # of the right arm
EACH = 80  # steps of an attempt: it opens, rests, closes from step 30 on, is closed until step 65
FOLLOWERS = {
    "exact": {},
    "reads less": {"offset": -0.03},
    "reads more": {"offset": 0.06},
    "noisy": {"noise": 0.01, "offset": -0.03},
    "zero is open": {"sign": -1},
    "zero is open, percent": {"sign": -1, "span": 100.0, "offset": 0.03},
    "metres": {"span": 0.04},
}


def demonstration(
    *thicknesses: float,
    carry: float = 0.0,
    away: float = 0.0,
    offset: float = 0.0,
    noise: float = 0.0,
    sign: int = 1,
    span: float = 1.0,
    reach: tuple[float, float] = (0.0, 1.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Commands and positions (T, 14) of a right hand that closes once for each thing of these thicknesses.

    Args:
        thicknesses: of what is in the way, shares of the gripper's span; 0 is nothing.
        carry, away: rad that the waist turns while the first thing is held, and then until the next closing.
        offset, noise, sign, span: of the follower and of the gripper's unit.
        reach: the openings that the gripper can reach.
    """
    steps = np.arange(EACH * len(thicknesses))
    command = np.interp(steps % EACH, [0, 5, 30, 35, 65, 70, EACH], [0.9, 1, 1, 0, 0, 0.9, 0.9])
    thing = np.repeat(thicknesses, EACH) * ((steps % EACH > 25) & (steps % EACH < 70))
    followed = np.concatenate([np.full(3, command[0]), command[:-3]])
    rng = np.random.default_rng(0)
    position = np.maximum(followed, thing).clip(*reach) + offset + noise * rng.normal(size=len(steps))
    action = np.zeros((len(steps), 14))
    action[:, WAIST] = np.interp(steps, [0, 25, 35, 65, 70, 110], [-1, 0, 0, carry, carry, carry + away])
    qpos = action.copy()
    for array, values in ((action, command + noise * rng.normal(size=len(steps))), (qpos, position)):
        array[:, GRIPPER] = span * (values if sign > 0 else 1 - values)
    return action, qpos


@pytest.mark.parametrize("names", [ALOHA_JOINTS, UNKNOWN], ids=["ALOHA", "another robot"])
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_closing_on_nothing_that_is_tried_again_is_a_failed_grasp(follower, names):
    action, qpos = demonstration(0.0, 0.5, away=0.1, **FOLLOWERS[follower])
    (failed,) = find_failed_grasps(action, qpos, names)
    assert failed.arm.columns == tuple(range(7, 14))
    assert (failed.start, failed.stop, failed.following) == pytest.approx((30, 65, 110), abs=20)
    assert failed.sign == FOLLOWERS[follower].get("sign", 1)
    meant = as_meant(action, qpos, names, [failed])[:, GRIPPER]
    span = FOLLOWERS[follower].get("span", 1.0)
    openness = (meant if failed.sign > 0 else span - meant) / span
    assert openness[5:110].min() > 0.8
    np.testing.assert_array_equal(meant[115:], action[115:, GRIPPER])
    assert not meant_steps(action, qpos, names, [failed]).all()


@pytest.mark.parametrize("names", [ALOHA_JOINTS, UNKNOWN], ids=["ALOHA", "another robot"])
@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("thicknesses", [(0.1, 0.4), (0.06, 0.8), (0.4, 0.1), (0.3, 0.3), (0.1, 0.2, 0.9)])
def test_grasps_of_things_of_different_thickness_are_grasps(thicknesses, follower, names):
    action, qpos = demonstration(*thicknesses, **FOLLOWERS[follower])
    assert find_failed_grasps(action, qpos, names) == []
    np.testing.assert_array_equal(as_meant(action, qpos, names), action)
    assert meant_steps(action, qpos, names).all()


@pytest.mark.parametrize("names", [ALOHA_JOINTS, UNKNOWN], ids=["ALOHA", "another robot"])
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_a_closed_hand_that_goes_somewhere_pushes_or_carries(follower, names):
    for back in (-0.3, 0.1):
        action, qpos = demonstration(0.0, 0.5, carry=0.3, away=back, **FOLLOWERS[follower])
        assert find_failed_grasps(action, qpos, names) == []


def test_a_grasp_elsewhere_is_no_second_try():
    action, qpos = demonstration(0.0, 0.5, away=1.0)
    assert find_failed_grasps(action, qpos, ALOHA_JOINTS) == []


def test_a_hand_that_never_holds_anything_fails_nothing():
    action, qpos = demonstration(0.0, 0.0, 0.0)
    assert find_failed_grasps(action, qpos, ALOHA_JOINTS) == []


def test_failed_grasps_in_a_row_are_all_found_and_a_grasp_between_is_not():
    action, qpos = demonstration(0.0, 0.0, 0.5)
    assert [failed.start for failed in find_failed_grasps(action, qpos, ALOHA_JOINTS)] == [30, 110]
    action, qpos = demonstration(0.0, 0.2, 0.0, 0.5)
    assert [failed.start for failed in find_failed_grasps(action, qpos, ALOHA_JOINTS)] == [30, 190]


def test_a_gripper_that_closes_no_further_is_empty_only_where_its_range_is_known():
    action, qpos = demonstration(0.0, 0.5, reach=GRIPPER_RANGE)
    assert find_failed_grasps(action, qpos, ALOHA_JOINTS) == []
    assert len(find_failed_grasps(action, qpos, ALOHA_JOINTS, GRIPPER_RANGE)) == 1
    action, qpos = demonstration(0.1, 0.5, reach=GRIPPER_RANGE)
    assert find_failed_grasps(action, qpos, ALOHA_JOINTS, GRIPPER_RANGE) == []


def test_objects_tell_which_way_a_gripper_closes():
    for sign in (1, -1):
        action, qpos = demonstration(0.3, 0.6, sign=sign)
        assert closing_sign(action[:, GRIPPER], qpos[:, GRIPPER]) == sign
    assert closing_sign(action[:, GRIPPER], action[:, GRIPPER]) == 1  # nothing tells


def test_the_first_grasp_is_the_first_keyframe_in_either_direction():
    """A hand that begins closed and opens for its first grasp; `from_grasp` leaves the opening out."""
    for sign in (1, -1):
        action, qpos = demonstration(0.3, 0.6, away=0.4, sign=sign)
        closed = 0.0 if sign > 0 else 1.0
        action[:6, GRIPPER] = qpos[:6, GRIPPER] = np.linspace(closed, 1 - closed, 6)
        found = keyframes(action, qpos, UNKNOWN, from_grasp=True)
        assert found[0, GRIPPER] == pytest.approx(closed)
        assert keyframes(action, qpos, UNKNOWN)[0, GRIPPER] == pytest.approx(1 - closed)


def test_time_and_memory_grow_with_the_length_of_an_episode():
    action, _ = demonstration(*([0.0, 0.5] * 2))
    between = np.repeat(action[-1:], 20_000, axis=0)
    for pieces in ((action, between), (between, action), (action[:130], between, action[130:])):
        long = np.concatenate(pieces)
        seen = long.copy()
        seen[:, GRIPPER] = np.maximum(seen[:, GRIPPER], 0.5 * (np.arange(len(long)) > len(long) - 60))
        tracemalloc.start()
        start = time.process_time()
        meant_steps(long, seen, ALOHA_JOINTS)
        as_meant(long, seen, ALOHA_JOINTS)
        keyframes(long, seen, ALOHA_JOINTS)
        moving_steps(long, ALOHA_JOINTS, 10)
        assert time.process_time() - start < 10
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_episodes_of_a_few_steps(steps):
    for action in (np.zeros((steps, 14)), np.random.default_rng(0).normal(size=(steps, 14))):
        assert moving_steps(action, ALOHA_JOINTS, 11).shape == (steps,)
        assert moving_steps(action, ALOHA_JOINTS, 11).any()
        assert find_failed_grasps(action, action, ALOHA_JOINTS) == []
        assert keyframes(action, action, ALOHA_JOINTS).shape == (steps, 8)
        assert as_meant(action, action, ALOHA_JOINTS).shape == (steps, 14)
