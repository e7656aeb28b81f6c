"""The settings of a training run that are not the policy's."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from act.errors import ConfigError
from act.policies.checks import check_types
from demos.spec import JpegColors

LearnFrom = Literal["demonstrated", "human", "all"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimisation; the paper's numbers by default."""

    steps: int = 100_000
    """Optimiser steps. A resumed run may have more of them if its schedule is constant; a cosine depends on its end."""
    batch_size: int = 8
    """Starts per step, of all processes together."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other: less memory, the same step."""
    lr: float = 1e-5
    """Highest learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Of the learning rate after the warm-up: a half cosine down to min_lr_ratio at the last step, or none."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    min_lr_ratio: float = 0.0
    """Learning rate at the end of the cosine, as a share of lr."""
    weight_decay: float = 1e-4
    """Of AdamW, on all parameters."""
    grad_clip: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights that validation, rollouts and users of the checkpoint get; 0: none."""
    seed: int = 0
    """Of the weights, the order of the batches, dropout, and the validation split."""
    val_fraction: float = 0.1
    """Share of the episodes kept for validation; 0 trains on all."""
    learn_from: LearnFrom = "demonstrated"
    """Steps to learn from: demonstrated leaves out those of a policy that a person then corrected, human takes only
    those in which a person acted, all takes all."""
    drop_idle_steps: bool = False
    """Leave pauses of the demonstrations out, but for their first 0.2 s: a policy without memory that learns to stand
    still stands still for ever."""
    drop_failed_grasps: bool = False
    """Learn from grippers that stay open where they closed on nothing, opened and tried again, and from arms that do
    not go there."""
    beginning_fraction: float = 0.0
    """Share of the starts that are among the first 20 steps of an episode, taken again as often as that needs; 0: each
    start is taken once in a pass. Which way an arm goes is open there and nowhere else."""
    jpeg_colors: JpegColors = "auto"
    """Order of the colours in JPEG frames: bgr as OpenCV encodes RGB without a conversion, rgb true colours; auto is
    what the files say (attribute jpeg_colors), else bgr."""
    val_starts: int = 256
    """Fixed starts in the validation episodes on which losses are measured."""

    log_every: int = 100
    """Steps between two lines of metrics."""
    val_every: int = 1000
    """Steps between two validations."""
    eval_every: int = 0
    """Steps between two rounds of rollouts; best.pt is then the best by success. 0: none, and best.pt has the lowest
    validation L1 of what the policy predicts."""
    save_every: int = 5000
    """Steps between two checkpoints."""
    keep_last: int = 2
    """How many of the newest checkpoints stay; best.pt and last.pt stay in any case."""

    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto is CUDA where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass; auto is bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16. Weights are always
    float32."""
    threads: int = 0
    """Threads that compute on a CPU; 0: as many as there are cores that other processes leave free, looked at again
    with every line of metrics. Their number moves results by rounding."""
    compile: bool = False
    """Compile the training step with torch.compile: minutes at the start, faster steps."""
    cache: Literal["auto", "device", "ram", "none"] = "auto"
    """Where decoded frames are kept: on the training device, in RAM or nowhere; auto takes the first that fits."""
    num_workers: int = 2
    """Processes that read frames ahead where they are not cached."""

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
        }.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")

    @property
    def free_on_resume(self) -> set[str]:
        """Settings that may change when a run continues: none of them moves the weights."""
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
        """Learning rate of step 1 … steps as a share of its highest value."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
