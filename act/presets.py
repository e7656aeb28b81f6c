"""Settings that go together, by name; every one of them can be overridden by a flag of scripts/train.py."""

from act.policies import ACTConfig
from act.train_config import TrainConfig

PRESETS: dict[str, tuple[ACTConfig, TrainConfig]] = {
    # Zhao et al. 2023, table III and its public code, for 100,000 steps; the decoder is one layer deep (see act.py).
    "paper": (ACTConfig(), TrainConfig()),
    # Two CPU cores and small pictures, 120 × 160 say.
    "cpu": (
        ACTConfig(
            chunk_size=50,
            d_model=256,
            ffn_dim=1024,
            n_style_layers=2,
            n_encoder_layers=3,
            n_decoder_layers=2,
            backbone_weights="none",
            backbone_width=0.5,
            backbone_stride=16,
        ),
        TrainConfig(
            steps=8000,
            batch_size=16,
            lr=3e-4,
            schedule="cosine",
            warmup_steps=200,
            grad_clip=10.0,
            ema_decay=0.999,
            val_every=500,
            save_every=1000,
        ),
    ),
}
