"""Laws of simulated people: what they do, how their traits change it, and what is recorded of them."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions have no type stubs.)

import importlib
import re

import gymnasium as gym
import h5py
import numpy as np
import pytest
import tyro

import envs
import scripts.record
from demos.demonstrators import DEMONSTRATORS, Demonstrator, Row
from demos.episode import Episode, find_episodes
from demos.ik import BimanualIK, quaternion_matrix
from demos.motion import PUBLISHED
from demos.record import RecordConfig, record
from demos.spec import EpisodeError
from demos.tasks import TASKS, choose_variant
from demos.tool_poses import pitched
from demos.traits import TRAITS
from envs.aloha import HOME_ACTION

CUBE, INSERTION, HAND_OVER = (envs.env_id(task) for task in ("transfer_cube", "insertion", "hand_over"))
RIGHT_GRIPPER = 13


def first_state(env_id: str, seed: int) -> np.ndarray:
    """The object poses at the start of an episode."""
    observation, _ = gym.make(env_id, disable_env_checker=True, lazy=True).reset(seed=seed)
    return observation["env_state"]


@pytest.fixture(scope="module")
def cube() -> np.ndarray:
    return first_state(CUBE, 0)


def commands(cube: np.ndarray, *traits: str, seed: int = 0, name: str = "plain") -> np.ndarray:
    return Demonstrator(CUBE, name, traits=traits).commands(seed, cube)[0]


def succeeds(env_id: str, demonstrator: Demonstrator, seed: int) -> bool:
    env = gym.make(env_id, disable_env_checker=True, lazy=True, horizon=5000)
    observation, info = env.reset(seed=seed)
    demonstrator.reset([seed], {name: value[None] for name, value in observation.items()})
    for _ in range(demonstrator.length):
        observation, _, _, _, info = env.step(demonstrator({})[0])
    return info["is_success"]


def closings(commanded: np.ndarray) -> int:
    """How often the right gripper closes."""
    shut = commanded[:, RIGHT_GRIPPER] < 0.5
    return int((shut[1:] & ~shut[:-1]).sum())


def stretches_without_motion(commanded: np.ndarray) -> list[int]:
    """Lengths of the stretches in which nothing is commanded to move."""
    still = np.abs(np.diff(commanded, axis=0)).max(axis=1) < 1e-5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(int), [0]])))
    return [int(stop - start) for start, stop in edges.reshape(-1, 2)]


def test_either_arm_gives_where_either_may(tmp_path):
    """As often as the other, by operator and expert, and each episode's file tells which."""
    states = np.stack([first_state(HAND_OVER, 0)] * 3)
    chosen = [choose_variant(TASKS[HAND_OVER].published, seed) for seed in range(200)]
    assert 80 < chosen.count("left") < 120
    for who in (Demonstrator(HAND_OVER, "plain"), Demonstrator(HAND_OVER)):
        who.reset(range(3), {"env_state": states})
        assert who.variants == chosen[:3]
    for way in ("left", "right"):
        seed = chosen.index(way)
        assert succeeds(HAND_OVER, Demonstrator(HAND_OVER, "plain"), seed)
        record(RecordConfig(HAND_OVER, {"top": (12, 16)}, first_seed=seed), tmp_path / way, 1)
        path = find_episodes(tmp_path / way)[0]
        assert Episode(path).attributes["variant"] == way
    with h5py.File(path, "r+") as root:  # as files were before the attribute was renamed
        root.attrs["way"] = root.attrs["variant"]
        del root.attrs["variant"]
    assert Episode(path).attributes["variant"] == way


def test_plain_moves_as_published(cube):
    """The waypoints of ACT's scripted_policy.py, found again by forward kinematics."""
    ik, commanded = BimanualIK(), commands(cube)
    assert len(commanded) == 400
    for t, offset in ((90, 0.08), (130, -0.015), (170, -0.015)):
        position, rotation = ik.forward("right", commanded[t - 1, 7:13])
        np.testing.assert_allclose(position, cube[:3] + [0, 0, offset], atol=2e-3)
        np.testing.assert_allclose(rotation, quaternion_matrix(pitched("right")), atol=0.02)
    position, _ = ik.forward("right", commanded[110 - 1, 7:13])  # half way down, at constant speed
    np.testing.assert_allclose(position, cube[:3] + [0, 0, (0.08 - 0.015) / 2], atol=2e-3)
    for t, x in ((100, -0.1), (260, 0.02)):
        position, _ = ik.forward("left", commanded[t - 1, :6])
        np.testing.assert_allclose(position, [x, 0.5, 0.23], atol=2e-3)
    np.testing.assert_allclose(commanded[[149, 169, 219, 264, 309], RIGHT_GRIPPER], [0.5, 0, 0, 0.5, 1], atol=1e-5)


def test_an_episode_follows_from_its_seed(cube):
    np.testing.assert_array_equal(commands(cube, name="mixed"), commands(cube, name="mixed"))
    # `mixed` draws which traits an episode has, so lengths differ.
    assert len({len(commands(cube, name="mixed", seed=seed)) for seed in range(3)}) == 3


def test_episodes_side_by_side_are_those_of_each_alone(cube):
    operator = Demonstrator(CUBE, "mixed")
    operator.reset([3, 4], {"env_state": np.stack([cube, cube])})
    together = np.stack([operator({}) for _ in range(operator.length)], axis=1)
    for i, seed in enumerate((3, 4)):
        alone = commands(cube, name="mixed", seed=seed)
        np.testing.assert_array_equal(together[i, : len(alone)], alone)
        np.testing.assert_array_equal(together[i, len(alone) :], alone[-1:].repeat(operator.length - len(alone), 0))


@pytest.mark.parametrize("name", ["careful", "hasty", "mixed"])
def test_commands_start_at_home_and_never_jump(cube, name):
    for seed in range(3):
        commanded = commands(cube, name=name, seed=seed)
        change = np.abs(np.diff(commanded, axis=0, prepend=HOME_ACTION[None]))
        assert np.delete(change, [6, 13], axis=1).max() <= (PUBLISHED.max_joint_step or 0) + 1e-6
        assert ((commanded[:, [6, 13]] >= 0) & (commanded[:, [6, 13]] <= 1)).all()


def test_pauses_stand_still(cube):
    plain, paused = (stretches_without_motion(commands(cube, *traits, seed=2)) for traits in ((), ("pauses",)))
    assert max(plain) <= 40  # the script's own wait at its end
    assert sum(paused) > sum(plain) + 20


def test_tempo_changes_how_long_it_takes(cube):
    lengths = [len(commands(cube, "tempo", seed=seed)) for seed in range(8)]
    assert min(lengths) < 400 < max(lengths)
    assert min(lengths) >= 400 / 1.5 - 1
    assert max(lengths) <= 400 / 0.4 + 1


def test_wander_strays_in_the_air_and_hardly_at_contact(cube):
    ik = BimanualIK()
    plain, wandering = commands(cube), commands(cube, "wander")
    away = [
        float(np.linalg.norm(ik.forward("right", plain[t, 7:13])[0] - ik.forward("right", wandering[t, 7:13])[0]))
        for t in range(400)
    ]
    assert max(away[:90]) > 5e-3
    assert max(away[140:170]) < 4e-3
    assert away[140] > 1e-4


def test_misses_close_beside_the_object_and_try_again(cube):
    again = [seed for seed in range(6) if closings(commands(cube, "misses", seed=seed)) == 2]
    assert 0 < len(again) < 6
    assert closings(commands(cube)) == 1


def test_overshoot_goes_past_and_comes_back(cube):
    ik = BimanualIK()
    commanded = commands(cube, "overshoot", seed=1)
    heights = np.array([ik.forward("right", joints)[0][2] for joints in commanded[:130, 7:13]])
    lowest = heights[:100].min()
    assert lowest < cube[2] + 0.08 - 3e-3  # past the waypoint above the cube, on the way down to it
    assert heights[heights.argmin() if lowest == heights.min() else 90 :].max() > lowest + 3e-3


def test_approaches_come_from_either_side_and_turn_the_tool(cube):
    ik = BimanualIK()
    sides, pitches = [], []
    for seed in range(8):
        commanded = commands(cube, "approaches", seed=seed)
        sides.append(ik.forward("right", commanded[44, 7:13])[0][1])
        pitches.append(np.degrees(np.arcsin(-ik.forward("right", commanded[150, 7:13])[1][2, 0])))
    straight = ik.forward("right", commands(cube)[44, 7:13])[0][1]
    assert min(sides) < straight - 0.02
    assert max(sides) > straight + 0.02
    assert np.ptp(pitches) > 5
    assert 59 < min(pitches) < max(pitches) < 86


def test_order_lets_one_arm_wait_for_the_other(cube):
    first = {"left": 0, "right": 0, "both": 0}
    for seed in range(12):
        moved = np.abs(commands(cube, "order", seed=seed) - HOME_ACTION) > 0.01
        left, right = (int(moved[:, arm].any(axis=1).argmax()) for arm in (slice(0, 6), slice(7, 13)))
        first["both" if abs(left - right) < 40 else "left" if left < right else "right"] += 1
    assert all(count > 0 for count in first.values())


def test_idle_ends_stand_still_before_and_after(cube):
    commanded = commands(cube, "idle_ends")
    moved = np.abs(np.diff(commanded, axis=0)).max(axis=1) > 1e-5
    assert 10 <= moved.argmax() <= 101
    assert len(moved) - 1 - np.flatnonzero(moved)[-1] >= 40 + 9  # the script itself waits for 40 steps


def test_a_trait_draws_the_same_whatever_the_others_do(cube):
    def speeds(*traits: str) -> float:
        return len(commands(cube, *traits, seed=5))

    assert speeds("tempo") == speeds("tempo", "wander")


@pytest.mark.parametrize(
    ("env_id", "name", "expected"),
    [
        *[(CUBE, name, {0: True}) for name in ("plain", "careful", "mixed")],
        *[(INSERTION, name, {0: True}) for name in ("plain", "careful", "hasty")],
        (CUBE, "hasty", {0: True, 27: False}),
        (INSERTION, "mixed", {0: False, 1: True}),
    ],
)
def test_simulated_people_succeed_and_fail_where_they_did(env_id, name, expected):
    """Seed → success. Rates on hundreds of seeds stand in the documentation."""
    assert {seed: succeeds(env_id, Demonstrator(env_id, name), seed) for seed in expected} == expected


@pytest.mark.parametrize("trait", TRAITS)
def test_every_trait_alone_succeeds(trait):
    assert succeeds(CUBE, Demonstrator(CUBE, "plain", traits=(trait,)), seed=1)


def test_unknown_names_are_refused():
    with pytest.raises(EpisodeError, match=r"'me'; known demonstrators: expert, plain, careful, hasty, mixed$"):
        Demonstrator(CUBE, "me")
    with pytest.raises(EpisodeError, match="'hurry'; known traits: approaches, misses, "):
        Demonstrator(CUBE, "plain", traits=("hurry",))
    with pytest.raises(EpisodeError, match=r"'Tiny-v0'; .*: BimanualTransferCube-v0, "):
        Demonstrator("Tiny-v0")


def test_noise_and_traits_belong_to_one_motion_each():
    with pytest.raises(EpisodeError, match=r"noise 0.05 .* plain; .* expert$"):
        RecordConfig(CUBE, {}, noise=0.05, demonstrator="plain")
    with pytest.raises(EpisodeError, match=r"expert .* \(tempo\); .*: plain, careful, hasty, mixed$"):
        RecordConfig(CUBE, {}, traits=("tempo",))


def test_a_demonstrator_is_one_row_of_the_table(tmp_path, monkeypatch, capsys):
    """A new row is offered by scripts/record.py, records through it, and its name stands in the file."""
    row = Row("half as fast again", traits={"tempo": {"slowest": 1.5, "fastest": 1.5}})
    monkeypatch.setitem(DEMONSTRATORS, "swift", row)
    script = importlib.reload(scripts.record)  # --help is made of the table as the script is loaded
    flags = f"--task transfer_cube --out {tmp_path} --episodes 1 --height 12 --width 16 --seed 1 --demonstrator swift"
    script.main(tyro.cli(script.Args, args=flags.split()))
    with pytest.raises(SystemExit):
        tyro.cli(script.Args, args=["--help"])
    helped = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "{expert,plain,careful,hasty,mixed,swift}" in helped
    assert "swift: half as fast again" in helped
    monkeypatch.undo()
    importlib.reload(script)
    [path] = find_episodes(tmp_path)
    assert Episode(path).expert == "swift"
    assert Episode(path).length == (400 - 40) / 1.5 + 40  # the wait at the end takes as long as ever


def test_recording_an_operator(tmp_path):
    config = RecordConfig(CUBE, {"top": (12, 16)}, demonstrator="hasty", traits=("idle_ends",))
    done = record(config, tmp_path, 2)
    assert done.episodes == 2
    first, second = (Episode(path) for path in find_episodes(tmp_path))
    assert first.length != second.length
    for episode in (first, second):
        assert episode.success
        assert episode.expert == "hasty"
        assert episode.attributes["traits"] == "idle_ends"
        assert episode.expert_action is None  # what was commanded is all there is
        observed = first_state(CUBE, episode.seed or 0)
        expected, _ = Demonstrator(CUBE, "hasty", traits=("idle_ends",)).commands(episode.seed or 0, observed)
        np.testing.assert_array_equal(episode.action, expected)
    with pytest.raises(EpisodeError, match="expert is hasty here, careful there"):
        record(RecordConfig(CUBE, {"top": (12, 16)}, demonstrator="careful", traits=("idle_ends",)), tmp_path, 3)
