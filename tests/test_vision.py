"""Cameras become tokens: any number, any size, pretrained or not."""

import copy
from dataclasses import replace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tiny import BLIND, FROZEN, SPEC, THREE_CAMERAS, TINY, make, make_batch
from torch import Tensor, nn

from act.errors import ConfigError
from act.policies import Observation, Policy, PolicySettings, backbones, make_policy
from act.policies.vision import CameraEncoder, Keypoints, enlarged, shifted

PRETRAINED: dict[str, Any] = {"backbone_weights": "imagenet", "backbone_width": 1.0}


def make_encoder(config: PolicySettings = TINY) -> CameraEncoder:
    encoder = make(config).encoder.vision
    assert encoder is not None
    return encoder


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("cameras", [("top",), ("top", "left"), ("right", "top"), ("top", "right", "left")])
def test_any_cameras_of_any_size(shared: bool, cameras: tuple[str, ...]):
    policy, batch = make(TINY.replace(cameras=cameras, shared_backbone=shared)), make_batch()
    policy(batch)["loss"].backward()
    assert policy.predict(batch.observation).shape == (3, 6, 14)
    encoder = policy.encoder.vision
    assert encoder is not None
    assert len(encoder.backbones) == len(encoder.projections) == (1 if shared else len(cameras))
    tokens, position = encoder(batch.observation.images), encoder.token_positions()
    n_tokens = sum({"right": 3 * 3}.get(name, 3 * 4) for name in cameras)  # 45 × 37 and 48 × 64 at stride 16
    assert tokens.shape == (3, n_tokens, 32)
    assert position.shape == (n_tokens, 32)


def test_cameras_in_one_call_equal_cameras_one_by_one():
    encoder = make_encoder(TINY.replace(cameras=("top", "right", "left"))).eval()
    images = make_batch().observation.images
    tokens, position = encoder(images), encoder.token_positions()
    assert encoder.groups == [["top", "left"], ["right"]]
    assert encoder.camera_embedding is not None
    embedding = dict(zip(("top", "right", "left"), encoder.camera_embedding.weight, strict=True))
    start = 0
    for name in ("top", "left", "right"):
        alone = make_encoder(TINY.replace(cameras=(name,))).eval()
        alone.load_state_dict({key: encoder.state_dict()[key] for key in alone.state_dict()})
        own_tokens, own_position = alone(images), alone.token_positions()
        part = slice(start, start + len(own_position))
        torch.testing.assert_close(tokens[:, part], own_tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(position[part], own_position + embedding[name])
        start = part.stop
    assert start == len(position)


def test_swapping_two_cameras_changes_the_answer():
    policy, observation = make(TINY.replace(cameras=("top", "left"))).eval(), make_batch().observation
    images = observation.images
    swapped = replace(observation, images={"top": images["left"], "left": images["top"]})
    assert not torch.allclose(policy.predict(observation), policy.predict(swapped))


def test_images_are_normalised_as_imagenet_and_stay_channels_last():
    encoder = make_encoder(TINY.replace(cameras=("top",)))
    seen: list[Tensor] = []
    encoder.backbones[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    frame = make_batch().observation.images["top"]
    encoder({"top": frame})
    expected = (frame.numpy() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen[0].permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_the_stride_sets_the_feature_map_and_later_layers_are_not_built(stride: int):
    net = backbones.make_backbone("resnet18", "none", strides=[stride], width=0.25)
    [(channels, height, width)] = backbones.feature_map_shapes(net, (64, 96))
    assert (height, width) == (64 // stride, 96 // stride)
    assert channels == {4: 16, 8: 32, 16: 64, 32: 128}[stride]
    assert hasattr(net, "layer4") == (stride == 32)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18d"])
def test_width_narrows_every_layer_stem_included(name: str):
    net = backbones.make_backbone(name, "none", strides=[16], width=0.25)
    whole = backbones.make_backbone(name, "none", strides=[16])
    for (layer, narrow), wide in zip(net.named_modules(), whole.modules(), strict=True):
        if isinstance(narrow, nn.Conv2d) and isinstance(wide, nn.Conv2d):
            assert narrow.out_channels * 4 == wide.out_channels, layer


def test_frozen_norms_survive_training():
    policy = Policy(TINY.replace(backbone="test_resnet", **PRETRAINED), THREE_CAMERAS, pretrained=False)
    norms = {name: module for name, module in policy.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = copy.deepcopy(policy.state_dict())
    optimiser = torch.optim.AdamW(policy.train().parameter_groups(lr=1e-2))
    for _ in range(2):
        policy(make_batch())["loss"].backward()
        optimiser.step()
    assert norms
    assert not any(norm.training for norm in norms.values())
    for key, value in policy.state_dict().items():
        of_norm = key.rpartition(".")[0] in norms
        if of_norm or key.endswith("conv1.weight"):
            assert torch.equal(value, before[key]) == of_norm, key


def test_live_norms_agree_between_training_and_evaluation_once_their_statistics_have_settled():
    encoder, images = make_encoder(TINY.replace(cameras=("top",))), make_batch(8).observation.images
    with torch.no_grad():
        for _ in range(60):
            trained = encoder(images)
        evaluated = encoder.eval()(images)
    assert (trained - evaluated).abs().mean() < 0.05 * trained.abs().mean()


def test_backbone_learning_rate_makes_a_group_of_its_own():
    policy = make(TINY.replace(backbone_lr=1e-5, keypoints=2))
    rest, backbone = policy.parameter_groups(lr=1e-3)
    assert (rest["lr"], backbone["lr"]) == (1e-3, 1e-5)
    assert policy.encoder.vision is not None
    theirs = [*policy.encoder.vision.backbones.parameters(), *policy.encoder.vision.keypoints.parameters()]
    assert {id(p) for p in backbone["params"]} == {id(p) for p in theirs}
    assert len(rest["params"]) + len(backbone["params"]) == len(list(policy.parameters()))
    assert make().parameter_groups(lr=1e-3)[1]["lr"] == 1e-3
    assert len(make(BLIND).parameter_groups(lr=1e-3)) == 1


def test_cached_weights_are_used_without_the_network(tmp_path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    donor = timm.create_model("test_resnet")
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(donor.state_dict(), file)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(file))
    monkeypatch.setattr(backbones, "_probe", lambda _: pytest.fail("the network was asked"))
    net = backbones.make_backbone("test_resnet", "imagenet", strides=[16])
    for name, value in net.state_dict().items():
        assert torch.equal(value, donor.state_dict()[name]), name


def test_a_missing_download_names_the_flag_at_once(monkeypatch: pytest.MonkeyPatch):
    class Offline:
        def head(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(backbones, "get_session", Offline)
    with pytest.raises(ConfigError) as error:
        Policy(PolicySettings(), THREE_CAMERAS)
    assert str(error.value) == (
        "cannot get the ImageNet weights of resnet18 (ConnectionError: [Errno -2] Name or service not known); "
        "use --backbone-weights none to train it from scratch"
    )


def test_a_download_that_breaks_off_names_the_flag_too(monkeypatch: pytest.MonkeyPatch):
    create = timm.create_model

    def breaks_off(*args: Any, pretrained: bool = False, **settings: Any) -> nn.Module:
        if pretrained:
            raise OSError("Consistency check failed: file should be of size 46807446 but has size 17\nretry")
        return create(*args, **settings)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(backbones, "_probe", lambda _: None)
    monkeypatch.setattr(timm, "create_model", breaks_off)
    with pytest.raises(ConfigError) as error:
        backbones.make_backbone("resnet18", "imagenet", strides=[32])
    assert str(error.value) == (
        "cannot get the ImageNet weights of resnet18 (OSError: Consistency check failed: file should be of size "
        "46807446 but has size 17); use --backbone-weights none to train it from scratch"
    )


def test_offline_mode_is_respected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set and the weights are not in the cache\); use --back"):
        backbones.make_backbone("resnet18", "imagenet", strides=[32])


def test_a_checkpoint_needs_no_download(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backbones, "_pretrained", lambda *_: pytest.fail("weights were asked for"))
    config = TINY.replace(backbone="test_resnet", **PRETRAINED)
    policy, restored = (make_policy(config, THREE_CAMERAS, pretrained=False).eval() for _ in range(2))
    restored.load_state_dict(policy.state_dict())
    observation = make_batch().observation
    assert torch.equal(policy.predict(observation), restored.predict(observation))


def test_keypoints_are_where_the_heat_is():
    """One hot cell: its coordinates, (y, x) in -1 … 1. It moves one cell to the right: so does the point."""
    keypoints = Keypoints(channels=1, keypoints=1, d_model=8)
    keypoints.project = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    nn.init.constant_(keypoints.heat.weight, 50.0)
    features = torch.zeros(2, 1, 5, 9)
    features[0, 0, 1, 2] = features[1, 0, 1, 3] = 1.0
    torch.testing.assert_close(keypoints(features), torch.tensor([[-0.5, -0.5], [-0.5, -0.25]]))


def test_fresh_keypoints_are_not_all_in_the_middle():
    keypoints = Keypoints(channels=32, keypoints=16, d_model=8)
    keypoints.project = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    features = torch.randn(4, 32, 30, 40, generator=torch.Generator().manual_seed(0)).relu()
    assert keypoints(features).std() > 0.05  # in the middle, 0.02


def test_keypoints_make_one_token_per_camera():
    batch = make_batch()
    plain, pointing = make(TINY), make(TINY.replace(keypoints=4))
    assert plain.encoder.vision is not None
    assert pointing.encoder.vision is not None
    images = batch.observation.images
    tokens, more = plain.encoder.vision(images), pointing.encoder.vision(images)
    assert more.shape[1] == tokens.shape[1] + len(images) == len(pointing.encoder.vision.token_positions())
    assert pointing.predict(batch.observation).shape == batch.action.shape
    pointing(batch)["loss"].backward()
    assert all(p.grad is not None for p in pointing.encoder.vision.keypoints.parameters())


def test_keypoints_can_be_found_in_a_finer_map():
    """The tokens stay those of the coarser map; the heat maps have the cells of the finer one."""
    batch, cells = make_batch(), []
    config = TINY.replace(cameras=("top",), keypoints=4, keypoint_stride=8)
    shapes = []
    for encoder in (make_encoder(config.replace(keypoint_stride=None)), make_encoder(config)):
        encoder.keypoints[0].register_forward_pre_hook(lambda _, given: cells.append(given[0].shape[-2:].numel()))
        shapes.append(encoder(batch.observation.images).shape)
    assert shapes[0] == shapes[1]
    assert cells == [3 * 4, 6 * 8]


def test_keypoints_coarser_than_the_tokens_are_refused():
    with pytest.raises(ConfigError, match="keypoint_stride is 32, coarser than backbone_stride 16; choose a smaller"):
        TINY.replace(keypoints=4, backbone_stride=16, keypoint_stride=32)


def test_without_map_tokens_only_keypoints_are_seen():
    policy, batch = make(TINY.replace(keypoints=3, map_tokens=False)), make_batch()
    assert policy.encoder.vision is not None
    assert policy.encoder.vision(batch.observation.images).shape == (3, 3, TINY.d_model)  # one token a camera
    assert policy.encoder.vision.token_positions().shape == (3, TINY.d_model)
    assert policy.attention(batch.observation) == {}
    losses = policy(batch)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.encoder.vision.keypoints.parameters())


@pytest.mark.parametrize("size", [(30, 40), (15, 23)])
def test_enlarged_maps_are_bilinear_interpolations(size):
    maps = torch.randn(2, 3, 8, 10)
    torch.testing.assert_close(enlarged(maps, size), nn.functional.interpolate(maps, size, mode="bilinear"))


def test_shifted_frames_repeat_their_edges():
    frames = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)
    moved = shifted(frames, torch.tensor([[1, -2], [0, 0]]))
    assert torch.equal(moved[1], frames[1])
    assert torch.equal(moved[0, 1:, :3], frames[0, :-1, 2:])
    assert torch.equal(moved[0, 0], moved[0, 1])
    assert torch.equal(moved[0, :, 3], moved[0, :, 4])


def test_keypoints_take_the_shift_of_their_frame_off_again():
    """What lies a cell lower and two to the right because its frame was moved so is told to lie where it was."""
    encoder = CameraEncoder(
        {"top": (48, 64)},
        8,
        [backbones.make_backbone(FROZEN.backbone, "imagenet", strides=[8, 16], frozen=True)],
        True,
        keypoints=1,
        frozen=True,
        shift=8,
    )
    maps = torch.zeros(2, 1, 6, 8)
    maps[0, 0, 2, 3] = maps[1, 0, 3, 5] = 1.0
    keypoints = Keypoints(1, 1, 8)
    with torch.no_grad():
        keypoints.heat.weight.fill_(100.0)
    pixels = torch.tensor([[0.0, 0.0], [8.0, 16.0]])
    told = keypoints(maps, encoder._as_coordinates(pixels, ["top"], maps))
    torch.testing.assert_close(told[0], told[1])
    assert not torch.allclose(*keypoints(maps))


def test_frames_to_learn_from_are_shifted_and_others_are_not():
    policy = make_policy(FROZEN.replace(frame_shift=3), SPEC)
    frames = torch.randint(0, 256, (40, 24, 32, 3), dtype=torch.uint8)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    rows = [policy.encode_frames("top", frames, each) for each in (None, *generators)]
    plain, *learnt = (row for row in rows if row is not None)
    assert (plain[:, -2:] == 0).all()
    assert torch.equal(learnt[0], learnt[1])
    assert not torch.equal(learnt[0], learnt[2])
    shifts = learnt[0][:, -2:]
    assert {-3.0, 3.0} <= set(shifts.flatten().tolist())
    assert shifts.abs().max() == 3
    with pytest.raises(ConfigError, match="--frame-shift 0"):
        PolicySettings(frame_shift=3)


def test_every_query_of_a_rollout_has_a_shift_of_its_own_and_the_first_none():
    policy, state = make_policy(FROZEN.replace(frame_shift=3), SPEC).eval(), {}
    frames = {"top": torch.randint(0, 256, (2, 24, 32, 3), dtype=torch.uint8)}
    queries = [policy.encoder(Observation(torch.zeros(2, 14), frames), state).image_tokens for _ in range(3)]
    torch.testing.assert_close(queries[0], policy.encoder(Observation(torch.zeros(2, 14), frames)).image_tokens)
    assert not torch.allclose(queries[0], queries[1])
    assert not torch.allclose(queries[1], queries[2])
    assert policy.encoder.vision is not None
    spread = policy.encoder.vision.shift_of_query
    assert spread[0].tolist() == [0, 0]
    assert spread.abs().max() == 3
    assert len(spread.unique(dim=0)) > 12
