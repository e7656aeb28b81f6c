"""The settings of a training run that are not the policy's."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from act.errors import ConfigError
from act.policies.checks import check_types
from demos.spec import ActionSemantics, JpegColors

LearnFrom = Literal["demonstrated", "human", "all"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimisation; the paper's numbers by default."""

    steps: int = 100_000
    """Optimiser steps. A run with a constant schedule can be resumed with more steps; a cosine depends on its end."""
    batch_size: int = 8
    """Samples per step, of all processes together."""
    accumulate: int = 1
    """Gradient accumulation: parts of a batch that are computed one after the other. Less memory, the same step."""
    lr: float = 1e-5
    """Peak learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Learning rate after the warm-up. cosine: half a cosine down to min_lr_ratio at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    min_lr_ratio: float = 0.0
    """Learning rate at the end of the cosine, as a fraction of lr."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, on all parameters."""
    grad_clip: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights. Validation, rollouts and `load_policy` use the average. 0: none."""
    seed: int = 0
    """Seed of the initial weights, the order of the batches, dropout, and the validation split."""
    val_fraction: float = 0.1
    """Fraction of the episodes kept for validation; 0: train on all."""
    learn_from: LearnFrom = "demonstrated"
    """Steps to train on, in episodes in which a person corrected a policy. demonstrated: those of experts and people,
    without those of the policy. human: those of people alone. all: all."""
    drop_idle_steps: bool = False
    """Remove idle steps, in which neither arm nor gripper moves, from the training data; the first 0.2 s of each idle
    stretch stay. A policy without memory that learns to stand still never moves on."""
    drop_failed_grasps: bool = False
    """Remove failed grasp attempts from the training targets: closings on nothing that were followed by another try,
    and the way there and back."""
    beginning_fraction: float = 0.0
    """Fraction of the samples from the first 20 steps of an episode, which are repeated for it. 0: no repetition. The
    instruction decides the motion in these steps alone."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames. bgr: RGB encoded by OpenCV without a conversion. rgb: true colours. auto: as
    the files say (attribute jpeg_colors), else bgr."""
    robot: str = ""
    """The robot of the episodes, in place of what the files say: an MJCF or URDF file, or the JSON of a Robot. Its
    kinematic chains make keyframes positions in metres. config.json keeps the robot itself."""
    action_semantics: Literal["auto", "absolute_joints", "relative_joints", "absolute_ee", "relative_ee"] = "auto"
    """What an action commands: joint positions or an end effector's pose, absolutely or as a change; auto is what the
    files say, or else what their numbers suggest."""
    val_starts: int = 256
    """Number of samples of the validation episodes on which losses are measured; always the same ones."""

    log_every: int = 100
    """Steps between two records of metrics."""
    val_every: int = 1000
    """Steps between two validations."""
    eval_every: int = 0
    """Steps between two rounds of rollouts; best.pt is then the checkpoint with the highest success rate. 0: no
    rollouts, and best.pt has the lowest validation L1 of the predicted chunks."""
    save_every: int = 5000
    """Steps between two checkpoints."""
    keep_last: int = 2
    """Number of the newest checkpoints that are kept, besides best.pt and last.pt."""

    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: CUDA if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass. auto: bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16. Weights are always
    float32."""
    threads: int = 0
    """CPU threads. 0: as many as there are free cores, measured again with every record of metrics. Their number
    changes results by rounding."""
    compile: bool = False
    """Compile the training step with torch.compile: it takes minutes once, and steps are faster."""
    cache: Literal["auto", "device", "ram", "none"] = "auto"
    """Where decoded frames are kept: on the training device, in RAM or nowhere. auto: the first that fits."""
    num_workers: int = 2
    """Processes that read frames ahead if frames are not cached."""

    def __post_init__(self) -> None:
        check_types(self)
        counts = ("steps", "batch_size", "accumulate", "val_starts", "log_every", "val_every", "save_every")
        for name in ("lr", "keep_last", *counts):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("warmup_steps", "weight_decay", "grad_clip", "seed", "eval_every", "num_workers", "threads"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("ema_decay", "val_fraction", "beginning_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ConfigError(f"min_lr_ratio is {self.min_lr_ratio}; it must be from 0 to 1")
        for name, known in {
            "schedule": ("cosine", "constant"),
            "dtype": ("auto", "float32", "bfloat16"),
            "cache": ("auto", "device", "ram", "none"),
            "learn_from": get_args(LearnFrom),
            "jpeg_colors": get_args(JpegColors),
            "action_semantics": ("auto", *get_args(ActionSemantics)),
        }.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")

    @property
    def free_on_resume(self) -> set[str]:
        """Settings that may change when a run is resumed: none of them changes the weights."""
        free = {
            "device",
            "threads",
            "compile",
            "cache",
            "num_workers",
            "log_every",
            "save_every",
            "keep_last",
            "accumulate",
        }
        return free | {"steps"} if self.schedule == "constant" else free

    def lr_scale(self, step: int) -> float:
        """Learning rate of step 1 … steps as a fraction of its peak."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
