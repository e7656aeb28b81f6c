"""How much of everything the GPU report does."""

from dataclasses import dataclass

from act.policies import ACTConfig
from scripts.benchmarks.learning import LEROBOT_LIKE


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    config: ACTConfig
    frame: tuple[int, int]
    batches: tuple[int, ...]
    steps: int
    """Training steps timed for each mode and batch."""
    observations: tuple[int, ...]
    """How many a policy is asked about at once."""
    queries: int
    """Predictions timed for each of these."""
    processes: int
    frames: int
    """Rendered by each process."""
    demonstrations: int
    rollouts: int
    horizon: int
    train_flags: str
    table_rollouts: int
    table_s: float
    """Seconds after which no row is begun that would not be done in time."""


FULL = Sizes(
    config=LEROBOT_LIKE,
    frame=(480, 640),
    batches=(8, 32, 64, 128, 256),
    steps=20,
    observations=(1, 50),
    queries=300,
    processes=16,
    frames=400,
    demonstrations=50,
    rollouts=100,
    horizon=400,
    # The cpu preset's way of seeing at four times the resolution, with larger batches.
    train_flags="--preset cpu --backbone-width 1 --backbone-stride 32 --keypoint-stride 16 "
    "--batch-size 64 --steps 5000 --val-every 1000",
    table_rollouts=500,
    table_s=540.0,
)
TINY = Sizes(
    config=ACTConfig(
        chunk_size=10,
        cameras=("top",),
        d_model=32,
        n_heads=2,
        ffn_dim=64,
        n_style_layers=1,
        n_encoder_layers=1,
        backbone="test_resnet",
        backbone_weights="none",
        backbone_stride=16,
    ),
    frame=(48, 64),
    batches=(2, 4),
    steps=2,
    observations=(1,),
    queries=10,
    processes=2,
    frames=10,
    demonstrations=2,
    rollouts=2,
    horizon=30,
    train_flags="--preset cpu --chunk-size 10 --d-model 32 --n-heads 2 --backbone-width 0.125 --keypoints 0 "
    "--pose-weight 0 --batch-size 4 --steps 6",
    table_rollouts=2,
    table_s=60.0,
)
