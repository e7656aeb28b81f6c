"""Policies refuse settings, data and observations that do not fit, and say what would."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from messages import refusal, says
from tiny import BLIND, THREE_CAMERAS, TINY, make, make_batch

from act.normalizer import Normalizer
from act.policies import Policy


@pytest.mark.parametrize(
    ("stats", "parts"),
    [
        ({"action": ([0.0], [1.0])}, ["qpos", "action"]),
        ({"qpos": ([0.0], [1.0])}, ["qpos", "(1,)", "(2,)"]),
        ({"qpos": ([0.0, np.nan], [1.0, 1.0])}, ["qpos", "NaN"]),
    ],
)
def test_bad_statistics_are_refused(stats: dict, parts: list[str]):
    assert says(refusal(lambda: Normalizer({"qpos": 2}).fit(stats)), *parts)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"chunk_size": 0}, ["chunk_size", 0]),
        ({"n_decoder_layers": -1}, ["n_decoder_layers", -1]),
        ({"d_model": 30, "n_heads": 8}, ["d_model", 30, 8, "n_heads"]),
        ({"dropout": 1.0}, ["dropout", 1.0]),
        ({"kl_weight": -1.0}, ["kl_weight", -1.0]),
        ({"backbone_lr": -1e-4}, ["backbone_lr", -0.0001]),
        ({"pose_weight": 1.0}, ["pose_weight", "--pose-weight 0", "--keypoints"]),
        ({"map_tokens": False, "cameras": ("top",)}, ["--map-tokens", "--keypoints"]),
        ({"prior": "uniform"}, ["prior", "uniform", "standard", "learned"]),
        ({"prior": "learned", "cameras": ("top",)}, ["learned", "--prior standard", "--keypoints"]),
        ({"backbone_weights": "coco"}, ["backbone_weights", "coco", "imagenet", "none"]),
        (
            {"backbone_weights": "imagenet", "backbone_width": 0.5},
            ["backbone_width", 0.5, "ImageNet", "--backbone-weights none"],
        ),
        ({"cameras": ("top", "left", "top")}, ["cameras", "top, left, top"]),
        ({"cameras": ()}, ["cameras", "--use-env-state"]),
    ],
)
def test_impossible_configs_are_refused_when_built(settings: dict, parts: list[object]):
    assert says(refusal(lambda: TINY.replace(**settings)), *parts)


@pytest.mark.parametrize(
    ("settings", "spec", "parts"),
    [
        ({"cameras": ("top", "wrist")}, {}, ["camera wrist", "top, left, right"]),
        ({"use_env_state": True}, {"env_state_dim": 0}, ["--use-env-state", "env_state"]),
        ({}, {"cameras": {}}, ["cameras", "--use-env-state"]),
        ({"backbone": "resnet81"}, {}, ["resnet81", "resnet18"]),
        ({"backbone_stride": 64}, {}, ["resnet18", "stride 64", "2, 4, 8, 16, 32"]),
        ({"backbone": "regnetx_002"}, {}, ["regnetx_002", "width 0.125"]),
        (
            {"backbone": "swin_tiny_patch4_window7_224", "backbone_width": 1.0},
            {"cameras": {"top": (48, 64)}},
            ["48x64", "(224)", "resnet18"],
        ),
    ],
)
def test_configs_that_do_not_fit_the_episodes_are_refused(settings: dict, spec: dict, parts: list[str]):
    assert says(refusal(lambda: Policy(TINY.replace(**settings), replace(THREE_CAMERAS, **spec))), *parts)


def test_observations_that_do_not_fit_are_refused():
    policy, observation = make().eval(), make_batch().observation
    left = replace(observation, images={"left": observation.images["left"]})
    assert says(refusal(lambda: policy.predict(left)), "camera top", "left")
    small = observation.images | {"left": torch.zeros(3, 24, 32, 3, dtype=torch.uint8)}
    shapes = ("(3, 24, 32, 3)", "(B, 48, 64, 3)")
    assert says(refusal(lambda: policy.predict(replace(observation, images=small))), "camera left", *shapes)
    assert says(refusal(lambda: make(BLIND).predict(replace(observation, env_state=None))), "env_state")
