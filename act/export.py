"""A policy as a small file: its trained weights in half precision, without the frozen backbone, which comes from an
installed package. The demo policy of this package is one: `load_policy("demo")`.

    python -c "from act.export import export_small; export_small('runs/cube', 'cube.pt')"
"""

from pathlib import Path

from act.checkpoint import describe, is_backbone, load_policy, read_checkpoint, to_bytes
from act.errors import ConfigError
from act.run_folder import find_checkpoint, write_atomically


def export_small(source: Path | str, path: Path | str) -> int:
    """Writes the policy of a run folder or checkpoint to `path`; returns the file's size in bytes.

    Trained weights become float16; statistics of the normaliser and of batch norms stay float32.

    Raises:
        ConfigError: there is no usable checkpoint, or its backbone is trained.
    """
    policy = load_policy(source, "cpu")
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    if any(map(is_backbone, trained)):
        raise ConfigError(f"{source} has a trained backbone, which no package has; use the checkpoint itself")
    weights = {
        name: value.half() if name in trained else value
        for name, value in policy.state_dict().items()
        if not is_backbone(name)
    }
    step = read_checkpoint(find_checkpoint(source)).get("step", 0)
    contents = to_bytes(describe(policy) | {"weights": weights, "without_backbone": True, "step": step})
    write_atomically(Path(path), contents)
    return len(contents)
