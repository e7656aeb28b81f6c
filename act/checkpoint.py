"""One file that is a whole policy, and a whole training state: written atomically, loaded without executing anything.

A checkpoint is a dict that `torch.load(weights_only=True)` accepts (tensors and plain types, no pickled code):

    format, policy, policy_config, spec     what to build: `load_policy` needs no more than the file
    demonstrated_steps                      how long the longest demonstration moved; older files do not tell
    weights, ema                            parameters and buffers, the normaliser's among them; ema where it was on
    step, optimizer, random, …              what `act.train` needs to go on as if it had never stopped
"""

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from act.device import pick_device
from act.errors import ConfigError
from act.policies import POLICIES, make_policy, policy_name
from act.policies.base import Policy
from act.run_folder import RunFolder
from demos.spec import EpisodeSpec

FORMAT = 1


def describe(policy: Policy) -> dict[str, Any]:
    """What a checkpoint must hold for `load_policy` to build the policy again, its weights aside."""
    config = policy.config
    return {
        "format": FORMAT,
        "policy": policy_name(config),
        "policy_config": asdict(config),
        "spec": policy.spec.to_dict(),
        "demonstrated_steps": policy.demonstrated_steps,
    }


def to_bytes(contents: dict[str, Any]) -> bytes:
    """The checkpoint as it stands in a file."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of one checkpoint file, tensors on the CPU.

    Raises:
        ConfigError: the file is missing, damaged, or no checkpoint of this toolkit.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint; give a run folder of scripts/train.py or a .pt file in it")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types, one for each way in which bytes can be wrong
        raise ConfigError(f"{path} is damaged or no checkpoint; use another one of its run") from error
    if not isinstance(contents, dict) or "policy_config" not in contents:
        raise ConfigError(f"{path} is no checkpoint of this toolkit; use one that scripts/train.py wrote")
    if contents["format"] != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {contents['format']}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    return contents


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint file that a path means: itself, or of a run folder best.pt, or last.pt before there is a best.

    Raises:
        ConfigError: the run folder has none yet.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    for file in (folder.best, folder.last):
        if file.exists():
            return file
    raise ConfigError(f"{path} holds no checkpoint yet (best.pt or last.pt); train with --out {path} first")


def load_policy(path: Path | str, device: torch.device | str = "auto") -> Policy:
    """The trained policy, in evaluation mode, with its averaged (EMA) weights where there are any.

    Args:
        path: a checkpoint file or a run folder, see `find_checkpoint`.

    Raises:
        ConfigError: there is no usable checkpoint, or no such device.
    """
    path, device = find_checkpoint(path), pick_device(str(device))
    contents = read_checkpoint(path)
    if contents["policy"] not in POLICIES:
        known = ", ".join(POLICIES)
        raise ConfigError(f"{path} holds a policy called {contents['policy']!r}; this version knows {known}")
    config_type, _ = POLICIES[contents["policy"]]
    try:
        config = config_type(**contents["policy_config"])
        policy = make_policy(config, EpisodeSpec.from_dict(contents["spec"]), pretrained=False)
        policy.load_state_dict(contents["ema"] or contents["weights"])
    except (TypeError, RuntimeError) as error:  # unknown settings, or weights of other names and shapes
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path} does not fit this version ({reason}); use the version that wrote it") from error
    policy.demonstrated_steps = contents.get("demonstrated_steps", 0)
    return policy.to(device).eval()


def check_env_matches(policy: Policy, env_spec: EpisodeSpec) -> None:
    """Refuses a rollout in an environment that does not show or take what the policy was trained with.

    Compared are the joints, the action's layout, fps, the sizes of the cameras that the policy looks at, and, if it
    looks at them, the object poses. The environment may have other cameras besides, and another name.

    Raises:
        ConfigError: they differ; names both sides.
    """
    if missing := [name for name in policy.cameras if name not in env_spec.cameras]:
        has = ", ".join(env_spec.cameras) or "none"
        needs = ", ".join(policy.cameras)
        raise ConfigError(f"the policy looks at cameras {needs}, the environment has {has}; add {missing[0]} to it")
    seen, given = (
        replace(
            spec,
            cameras={name: spec.cameras[name] for name in policy.cameras},
            env_id="",
            task="",
            env_state_dim=spec.env_state_dim if policy.uses_env_state else 0,
        )
        for spec in (policy.spec, env_spec)
    )
    if differences := seen.differences(given):
        raise ConfigError(
            f"the policy was trained with other episodes than this environment gives (here: the policy, there: the "
            f"environment): {'; '.join(differences)}; make the environment with the policy's values, or train anew"
        )
