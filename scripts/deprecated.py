"""Flags that had another name: `DEPRECATED_FLAGS` maps the old name to the new one.

The old names work for one version. `upgrade_flags` replaces them before the command line is parsed.
"""

from collections.abc import Callable, Sequence

DEPRECATED_FLAGS: dict[str, dict[str, str]] = {
    "bench": {"--operator": "--demonstrator"},
    "latent_plot": {"--draws": "--samples"},
    "record": {"--operator": "--demonstrator"},
    "rollout": {
        "--draws": "--samples-per-seed",
        "--ensemble": "--temporal-ensemble-coeff",
        "--every": "--replan-every",
        "--execute": "--n-action-steps",
        "--phrases": "--instructions",
        "--sampling-steps": "--num-inference-steps",
        "--way": "--variant",
    },
    "train": {
        "--beginnings": "--beginning-fraction",
        "--n-style-layers": "--n-vae-encoder-layers",
        "--nats-weight": "--nll-weight",
        "--noise-levels": "--num-train-timesteps",
        "--place-weight": "--ee-position-weight",
        "--resolution": "--bin-width",
        "--sampling-steps": "--num-inference-steps",
        "--skip-misses": "--drop-failed-grasps",
        "--skip-pauses": "--drop-idle-steps",
        "--slope-weight": "--r1-weight",
    },
}
"""Script (its file name without .py) → old flag → new flag. Boolean flags need one row: --no-OLD is replaced, too."""

DEPRECATED_SWITCHES = {
    "train": {"--use-vae": ("--policy", "act"), "--no-use-vae": ("--policy", "regression")},
}
"""Script → old flag without a value → new flag and its value."""


def upgrade_flags(script: str, argv: Sequence[str], note: Callable[[str], object] = lambda line: None) -> list[str]:
    """Replaces deprecated flags of a script in its command line.

    Understands `--old value`, `--old=value`, `--no-old`, and underscores in place of dashes, as tyro does.

    Args:
        script: file name without .py.
        argv: the words after the script's name.
        note: called with one line for each flag that was replaced.
    """
    table, words = DEPRECATED_FLAGS.get(script, {}), list[str]()
    for position, word in enumerate(argv):
        if word == "--":  # only positional arguments follow
            return words + list(argv[position:])
        written, equals, value = word.partition("=")
        flag = written.replace("_", "-")
        if flag in (switches := DEPRECATED_SWITCHES.get(script, {})):
            note(f"note: {written} is now {' '.join(switches[flag])}; the old name will be removed in the next version")
            words += switches[flag]
            continue
        if flag in table:
            new = table[flag]
        elif flag.startswith("--no-") and (positive := f"--{flag.removeprefix('--no-')}") in table:
            new = f"--no-{table[positive].removeprefix('--')}"
        else:
            words.append(word)
            continue
        note(f"note: {written} is now called {new}; the old name will be removed in the next version")
        words.append(new + equals + value)
    return words
