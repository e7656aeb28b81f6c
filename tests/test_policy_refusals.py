"""Policies refuse settings, data and observations that do not fit, and say what would."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import BLIND, THREE_CAMERAS, TINY, make, make_batch

from act.errors import ConfigError
from act.normalizer import Normalizer
from act.policies import ACTPolicy


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({"action": ([0.0], [1.0])}, "no statistics of 'qpos': given ['action'], needed ['qpos']"),
        ({"qpos": ([0.0], [1.0])}, "statistics of 'qpos' have shapes (1,) and (1,), needed (2,)"),
        (
            {"qpos": ([0.0, np.nan], [1.0, 1.0])},
            "statistics of 'qpos' are not finite: check the demonstrations for NaN",
        ),
    ],
)
def test_bad_statistics_are_refused(stats: dict, message: str):
    with pytest.raises(ConfigError) as error:
        Normalizer({"qpos": 2}).fit(stats)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0; it must be positive"),
        ({"n_decoder_layers": -1}, "n_decoder_layers is -1; it must be positive"),
        ({"d_model": 30, "n_heads": 8}, "d_model is 30 with 8 heads; it must be a multiple of 4 and of n_heads"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0; it must not be negative"),
        ({"backbone_lr": -1e-4}, "backbone_lr is -0.0001; it must not be negative"),
        (
            {"pose_weight": 1.0},
            "pose_weight is 1, but there are no keypoints to read poses from; use --pose-weight 0 or --keypoints 32",
        ),
        (
            {"map_tokens": False, "cameras": ("top",)},
            "without map_tokens and keypoints no picture is seen; use --map-tokens or --keypoints 32",
        ),
        ({"prior": "uniform"}, "prior is 'uniform'; choose standard or learned"),
        (
            {"prior": "learned", "cameras": ("top",)},
            "prior learned has no keypoints to be told from; use --prior standard or --keypoints 32",
        ),
        ({"backbone_weights": "coco"}, "backbone_weights is 'coco'; choose imagenet or none"),
        (
            {"backbone_weights": "imagenet", "backbone_width": 0.5},
            "backbone_width is 0.5, but ImageNet weights exist only for width 1; use --backbone-weights none",
        ),
        ({"cameras": ("top", "left", "top")}, "cameras are top, left, top; name each only once"),
        ({"cameras": ()}, "the policy would be blind: give it cameras or --use-env-state"),
    ],
)
def test_impossible_configs_are_refused_when_built(settings: dict, message: str):
    with pytest.raises(ConfigError) as error:
        replace(TINY, **settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "spec", "message"),
    [
        ({"cameras": ("top", "wrist")}, {}, "the episodes have no camera wrist; they have: top, left, right"),
        (
            {"use_env_state": True},
            {"env_state_dim": 0},
            "--use-env-state needs object poses (env_state), and the episodes have none",
        ),
        ({}, {"cameras": {}}, "the episodes have no cameras: use --use-env-state to learn from object poses"),
        ({"backbone": "resnet81"}, {}, "unknown backbone 'resnet81'; timm has resnet18, resnet61q, resnet51q and many"),
        ({"backbone_stride": 64}, {}, "backbone resnet18 has no feature map at stride 64; it has 2, 4, 8, 16, 32"),
        ({"backbone": "regnetx_002"}, {}, "backbone regnetx_002 with width 0.125 gives no feature maps (RegNet"),
        (
            {"backbone": "swin_tiny_patch4_window7_224", "backbone_width": 1.0},
            {"cameras": {"top": (48, 64)}},
            "the backbone cannot work on 48x64 frames (Input height (48) doesn't match model (224).); try resnet18",
        ),
    ],
)
def test_configs_that_do_not_fit_the_episodes_are_refused(settings: dict, spec: dict, message: str):
    with pytest.raises(ConfigError) as error:
        ACTPolicy(replace(TINY, **settings), replace(THREE_CAMERAS, **spec))
    assert str(error.value).startswith(message)


def test_observations_that_do_not_fit_are_refused():
    policy, observation = make().eval(), make_batch().observation
    with pytest.raises(ConfigError, match="the policy looks at camera top, given only: left"):
        policy.predict(replace(observation, images={"left": observation.images["left"]}))
    small = observation.images | {"left": torch.zeros(3, 24, 32, 3, dtype=torch.uint8)}
    with pytest.raises(ConfigError, match=r"frames of camera left are \(3, 24, 32, 3\), the policy needs \(B, 48, 64"):
        policy.predict(replace(observation, images=small))
    with pytest.raises(ConfigError, match=r"the policy looks at object poses \(env_state\), given none"):
        make(BLIND).predict(replace(observation, env_state=None))
