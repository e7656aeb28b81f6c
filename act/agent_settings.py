"""What decides, besides its weights, what a policy does in an episode: flags of scripts/rollout.py, stored with its
results. `scripts.acting.agent_from` makes an agent of them. Without torch, so that a command line answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from act.chunking import ChunkExecutor, RecedingHorizon, TemporalEnsemble, default_executor
from act.errors import ConfigError
from act.policies.config import SAMPLING, Sample
from act.stored_names import current_names


@dataclass(frozen=True)
class AgentSettings:
    """How the policy acts."""

    instruction: str | None = None
    """Tell a policy with a text encoder this in every episode. Default: a phrasing of the task, chosen by the seed, as
    is the variant of a task that has several."""
    instructions: Literal["seen", "unseen", "none"] = "seen"
    """seen: phrasings of the grammar that demonstrations are told with. unseen: others that mean the same. none: no
    instruction, which stands for all of them."""
    variant: str | None = None
    """Ask for this variant of the task in every episode."""
    n_action_steps: int | None = None
    """Execute this many actions of each chunk before the next query, without ensembling."""
    temporal_ensemble_coeff: float | None = None
    """Coefficient of temporal ensembling, with a query every --replan-every steps. Default: 0.01, as in the paper, and
    ten queries a chunk."""
    replan_every: int = 1
    """With --temporal-ensemble-coeff: steps between two queries."""
    sample: Sample = "mean"
    """mean: the deterministic chunk. episode: one noise sample per episode. chunk: a new sample at every query."""
    sampling_steps: int | None = None
    """Flow matching and diffusion: steps from noise to a chunk. Default: as trained."""
    temperature: float | None = None
    """Autoregressive policies and flows: below 1, samples vary less."""
    top_p: float | None = None
    """Autoregressive policies: sample among the most likely tokens that together have this probability."""
    codes: Literal["gaussian", "code"] | None = None
    """Autoencoders: draw z from a normal distribution fitted to the codes, or take one of the codes."""
    horizon: int | None = None
    """Steps of an episode. Default: 1.2 times the longest demonstration without its pauses, at least 400."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Precision of the policy; auto is bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16, where it is faster."""
    compile: bool = False
    """Compile the policy: a minute at the start, faster answers."""

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings among these that replace settings of the policy, for `act.checkpoint.load_policy`."""
        return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}

    def executor(self, chunk_size: int, relative: bool = False) -> ChunkExecutor:
        """How chunks become actions, which may be `relative`.

        Raises:
            ConfigError: a setting does not fit the chunk's size.
        """
        if self.temporal_ensemble_coeff is not None:
            return TemporalEnsemble(chunk_size, self.temporal_ensemble_coeff, self.replan_every)
        if self.n_action_steps is not None:
            return RecedingHorizon(chunk_size, self.n_action_steps)
        return default_executor(chunk_size, relative)

    @classmethod
    def from_results(cls, stored: Mapping[str, Any]) -> Self:
        """The settings of a rollout, among all that its results store. What older files lack has its default.

        Raises:
            ConfigError: a value that the setting cannot have.
        """
        kinds, stored = get_type_hints(cls), current_names(stored)
        found = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        for name, value in found.items():
            if not _fits(value, kinds[name]):
                raise ConfigError(f"{name} is {value!r} in the settings of the results; roll out again")
        return cls(**found)


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of a JSON file is one that a field of this type can have."""
    if isinstance(kind, UnionType) or (get_origin(kind) is not None and get_origin(kind) is not Literal):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    return type(value) is kind or (kind is float and type(value) is int)
