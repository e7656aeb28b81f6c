"""One file that is a whole policy, and a whole training state: written atomically, loaded without executing anything.

A checkpoint is a dict that `torch.load(weights_only=True)` accepts (tensors and plain types, no pickled code), in a zip
archive whose comment is the SHA-256 of all bytes before it, since torch.load checks none:

    format, policy, policy_config, spec     what to build: `load_policy` needs no more than the file
    demonstrated_steps                      length of the longest demonstration without pauses; older files lack it
    sentences                               the text encoder, and its vectors of the instructions met in training
    weights, ema                            parameters and buffers, the normalisers' among them; ema where it was on
    without_backbone                        True: a frozen backbone is not among the weights (`act.export`)
    step, optimizer, random, …              what `act.train` needs to continue as if it had never stopped

Format 1 had other names; `read_checkpoint` replaces them (`act.stored_names`).
"""

import hashlib
import io
import logging
import struct
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from act.device import pick_device
from act.errors import ConfigError
from act.language import InstructionEncoder
from act.policies import GENERATORS, PolicySettings, make_policy
from act.policies.policy import Policy
from act.run_folder import find_checkpoint
from act.stored_names import current_parameter, current_policy
from demos.spec import EpisodeSpec

FORMAT = 2
NEEDED = {"format": int, "policy": str, "policy_config": dict, "spec": dict, "weights": Mapping}
"""What no checkpoint can do without, and its type."""
DIGEST = b"sha256:"
COMMENT = len(DIGEST) + 2 * hashlib.sha256().digest_size  # bytes


def describe(policy: Policy) -> dict[str, Any]:
    """What a checkpoint must hold for `load_policy` to build the policy again, its weights aside."""
    return {
        "format": FORMAT,
        "policy": policy.settings.policy,
        "policy_config": policy.settings.to_dict(),
        "spec": policy.spec.to_dict(),
        "demonstrated_steps": policy.demonstrated_steps,
        "sentences": None if policy.instruction_encoder is None else policy.instruction_encoder.to_dict(),
    }


def to_bytes(contents: dict[str, Any]) -> bytes:
    """The checkpoint as it stands in a file."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    # A zip archive ends with the length of its comment, here 0, and the comment.
    sealed = buffer.getvalue()[:-2] + struct.pack("<H", COMMENT)
    return sealed + _digest(sealed)


def _digest(data: bytes) -> bytes:
    return DIGEST + hashlib.sha256(data).hexdigest().encode()


def checksum(path: Path) -> str:
    """SHA-256 of a checkpoint file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of one checkpoint file under their names of today, tensors on the CPU.

    Older files have no checksum; a warning is logged and they are read unchecked.

    Raises:
        ConfigError: the file is missing, damaged, or no checkpoint of this toolkit.
    """
    data = find_checkpoint(path).read_bytes()
    told, sealed = data[-COMMENT:], data[:-COMMENT]
    has_digest = told.startswith(DIGEST)
    if has_digest and told != _digest(sealed):
        raise ConfigError(f"{path} is damaged: its digest is another one; use another checkpoint of its run")
    try:
        contents = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types, one for each way in which bytes can be wrong
        raise ConfigError(f"{path} is damaged or no checkpoint; use another one of its run") from error
    if not isinstance(contents, dict) or "policy_config" not in contents:
        raise ConfigError(f"{path} is no checkpoint of this toolkit; use one that scripts/train.py wrote")
    for name, kind in NEEDED.items():
        if not isinstance(contents.get(name), kind):
            wrong = "is of another type" if name in contents else "is missing"
            raise ConfigError(f"{path} is no whole checkpoint: {name} {wrong}; use another one of its run")
    if contents["format"] not in (1, FORMAT):
        raise ConfigError(
            f"{path} has checkpoint format {contents['format']}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    if not has_digest:
        logging.getLogger(__name__).warning("%s has no digest, as older checkpoints: read unchecked", path)
    contents["policy"], contents["policy_config"] = current_policy(contents["policy"], contents["policy_config"])
    for name in ("weights", "ema"):
        if contents.get(name):
            contents[name] = {current_parameter(key): value for key, value in contents[name].items()}
    return contents


def upgrade_state_dict(weights: Mapping[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """Weights of older versions as this policy has them, under the names of today.

    End-effector positions once had one share of the keyframe for all directions. Keyframes were once predicted without
    the grippers, and were an input without the remaining way.
    """
    weights = dict(weights)
    for name in ("head.ee_positions.weight", "head.ee_positions.bias"):
        if name in weights and len(weights[name]) == 8:
            added, share = weights[name].unflatten(0, (2, 4)).split([3, 1], dim=1)
            weights[name] = torch.cat([added, torch.zeros_like(added), share.expand_as(added)], dim=1).flatten(0, 1)
    shapes = {name: value.shape for name, value in policy.named_parameters()}
    for name in ("encoder.keyframe_head.0.weight", "generator.transformer.proj.keyframe.weight"):
        if name in weights and name in shapes:
            missing = shapes[name][1] - weights[name].shape[1]
            if 0 < missing <= 6:  # any other difference is a misfit
                weights[name] = F.pad(weights[name], (0, missing))
    return weights


def upgrade_optimizer(
    stored: dict[str, Any], weights: Mapping[str, Tensor], groups: list[dict], policy: Policy
) -> dict[str, Any]:
    """The optimiser's stored state for the parameters in the order of `groups`.

    An optimiser numbers its parameters group by group. Within a group a checkpoint's order is that of its weights.
    """
    order = {name: i for i, name in enumerate(weights)}
    names = {id(p): name for name, p in policy.named_parameters()}
    state, start = {}, 0
    for group in groups:
        new = [names[id(p)] for p in group["params"]]
        old = {name: start + i for i, name in enumerate(sorted(new, key=order.__getitem__))}
        state |= {start + i: stored["state"][old[name]] for i, name in enumerate(new) if old[name] in stored["state"]}
        start += len(new)
    return stored | {"state": state}


def is_backbone(name: str) -> bool:
    """Whether a weight of this name is the backbone's."""
    return ".backbones." in f".{name}"


def stored_weights(contents: Mapping[str, Any], policy: Policy) -> dict[str, Tensor]:
    """The weights of a checkpoint for this policy, averaged (EMA) where there are any. A backbone that is not in the
    file is the policy's own.
    """
    weights = upgrade_state_dict(contents.get("ema") or contents["weights"], policy)
    if not contents.get("without_backbone"):
        return weights
    return {name: value for name, value in policy.state_dict().items() if is_backbone(name)} | weights


def load_policy(
    path: Path | str,
    device: torch.device | str = "auto",
    sampling: Mapping[str, Any] | None = None,
    text_encoder: str | None = None,
) -> Policy:
    """The trained policy, in evaluation mode, with its averaged (EMA) weights where there are any.

    Args:
        path: a checkpoint file, a run folder or "demo", see `find_checkpoint`.
        sampling: settings of the policy that change how it answers and not what it learnt, if not as it was trained:
            see `act.policies.settings.SAMPLING`.
        text_encoder: the `module:function` that the user names, to embed sentences that are new to the policy. One that
            only the checkpoint names does not run.

    Raises:
        ConfigError: there is no usable checkpoint, no such device, the policy has no such setting or another encoder.
    """
    path, device = find_checkpoint(path), pick_device(str(device))
    contents = read_checkpoint(path)
    if contents["policy"] not in GENERATORS:
        known = ", ".join(GENERATORS)
        raise ConfigError(f"{path} holds a policy called {contents['policy']!r}; this version knows {known}")
    known = {field.name for field in fields(GENERATORS[contents["policy"]][0])}
    if foreign := [name for name in sampling or {} if name not in known]:
        what = f"{path} is a policy of the family {contents['policy']}, which has no {foreign[0]}"
        raise ConfigError(f"{what}; leave --{foreign[0].replace('_', '-')} out")
    try:
        settings = PolicySettings.from_dict(contents["policy"], {**contents["policy_config"], **(sampling or {})})
        spec, pretrained = EpisodeSpec.from_dict(contents["spec"]), bool(contents.get("without_backbone"))
        policy = make_policy(settings, spec, pretrained=pretrained)
        policy.load_state_dict(stored_weights(contents, policy))
        policy.demonstrated_steps = int(contents.get("demonstrated_steps", 0))
        if policy.instruction_encoder is not None:
            stored = contents.get("sentences") or policy.instruction_encoder.to_dict()
            policy.instruction_encoder = InstructionEncoder.from_checkpoint(stored)
    except Exception as error:  # unknown settings or values, or weights of other names and shapes
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{path} does not fit this version ({reason}); use the version that wrote it") from error
    if text_encoder is not None:
        if policy.instruction_encoder is None:
            raise ConfigError(f"{path} takes no instructions; leave --text-encoder out")
        policy.instruction_encoder.trust(text_encoder)
    if wrong := [name for name, value in policy.state_dict().items() if not torch.isfinite(value).all()]:
        raise ConfigError(f"{path}: weights {wrong[0]} are NaN or infinite; use another checkpoint of its run")
    return policy.to(device).eval()


def start_from(policy: Policy, path: Path | str) -> None:
    """Gives a new policy the weights of a trained one, averaged (EMA) where there are any, and its normaliser.

    The statistics stay those of the trained one because its weights were learnt for them: the new policy acts as it
    does until it is trained. Its horizon is at least that one's.

    Args:
        policy: freshly made, of the same architecture.
        path: a checkpoint file or a run folder, see `find_checkpoint`.

    Raises:
        ConfigError: there is no usable checkpoint, or its weights do not fit; names the settings that differ.
    """
    path = find_checkpoint(path)
    contents = read_checkpoint(path)
    there, here = contents["policy_config"], policy.settings.to_dict()
    spec = EpisodeSpec.from_dict(contents["spec"])
    cameras = there.get("cameras") or tuple(spec.cameras if there.get("cameras") is None else ())
    changed = [f"{name} {there[name]!r} → {value!r}" for name, value in here.items() if there.get(name, value) != value]
    if (family := policy.settings.policy) != contents["policy"]:
        changed.insert(0, f"policy {contents['policy']} → {family}")
    for name, old, new in (
        ("cameras", ", ".join(cameras), ", ".join(policy.cameras)),
        ("joints", ", ".join(spec.joint_names), ", ".join(policy.spec.joint_names)),
        ("size of env_state", spec.env_state_dim, policy.spec.env_state_dim),
    ):
        if old != new and not (name == "size of env_state" and not policy.uses_env_state):
            changed.append(f"{name} {old or 'none'} → {new or 'none'}")
    fits = family == contents["policy"] and list(cameras) == list(policy.cameras)
    fits = fits and spec.joint_names == policy.spec.joint_names
    try:
        if fits:
            policy.load_state_dict(stored_weights(contents, policy))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        changed = changed or [" ".join(str(error).split())[:160]]
        fits = False
    if not fits:
        raise ConfigError(
            f"{path} does not fit the new run: {'; '.join(changed)}; use its settings and --init, or train anew"
        )
    if wrong := [name for name, value in policy.state_dict().items() if not torch.isfinite(value).all()]:
        raise ConfigError(f"{path}: weights {wrong[0]} are NaN or infinite; use another checkpoint of its run")
    policy.demonstrated_steps = max(policy.demonstrated_steps, int(contents.get("demonstrated_steps", 0)))


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
        raise ConfigError(f"the policy needs cameras {needs}, the environment has {has}; add {missing[0]} to it")
    seen, given = (
        replace(
            spec,
            cameras={name: spec.cameras[name] for name in policy.cameras},
            env_ids=(),
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
