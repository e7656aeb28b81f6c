"""Settings that had another name when a run or a rollout stored them: `RENAMED_SETTINGS` maps the old name to the new.

config.json of a run folder, the settings in a checkpoint and those in results.json are read through `current_names`.
"""

from collections.abc import Mapping
from typing import Any

RENAMED_SETTINGS = {
    # scripts/train.py
    "beginnings": "beginning_fraction",
    "skip_misses": "drop_failed_grasps",
    "skip_pauses": "drop_idle_steps",
    # scripts/rollout.py
    "draws": "samples_per_seed",
    "ensemble": "temporal_ensemble_coeff",
    "every": "replan_every",
    "execute": "n_action_steps",
    "phrases": "instructions",
    "way": "variant",
}
"""Old name → new name, of training, policies and rollouts."""


def current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings under their names of today; a setting that has its new name already keeps its value."""
    found = {RENAMED_SETTINGS.get(name, name): value for name, value in stored.items()}
    return found | {name: value for name, value in stored.items() if name not in RENAMED_SETTINGS}
