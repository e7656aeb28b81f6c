"""Settings that go together, by name; every one of them can be overridden by a flag of scripts/train.py."""

from act.policies import ACTConfig
from act.train_config import TrainConfig

PRESETS: dict[str, tuple[ACTConfig, TrainConfig]] = {
    # Zhao et al. 2023, table III and its public code, for 100,000 steps; the decoder is one layer deep (see act.py).
    "paper": (ACTConfig(), TrainConfig()),
    # Two CPU cores and small pictures, 120 × 160 say; what was chosen by measuring stands in the README.
    "cpu": (
        ACTConfig(
            chunk_size=50,
            d_model=128,
            n_heads=4,
            ffn_dim=512,
            n_style_layers=1,
            n_encoder_layers=2,
            n_decoder_layers=1,
            dropout=0.0,
            use_vae=False,
            backbone="tf_efficientnet_lite0",
            backbone_frozen=True,
            backbone_stride=32,
            map_tokens=False,
            keypoints=32,
            keypoint_stride=8,
            frame_shift=8,
            keyframe_weight=3.0,
            place_weight=1.0,
            backbone_lr=1e-2,
        ),
        TrainConfig(
            steps=10_000,
            batch_size=16,
            lr=7e-4,
            schedule="cosine",
            warmup_steps=200,
            grad_clip=10.0,
            ema_decay=0.999,
            skip_pauses=True,
            skip_misses=True,
            val_fraction=0.04,
            val_every=500,
            save_every=1000,
        ),
    ),
}
