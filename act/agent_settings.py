"""The settings of an agent: flags of scripts/rollout.py, stored with its results. `act.agent.agent_from` uses them.

Imports no torch, so that `--help` is fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from act.chunking import ChunkExecutor, RecedingHorizon, TemporalEnsemble, default_executor
from act.errors import ConfigError
from act.policies.settings import SAMPLING, Sample
from act.stored_names import current_names


@dataclass(frozen=True)
class AgentSettings:
    """How the policy acts."""

    instruction: str | None = None
    """Instruction of every episode, for a policy with a text encoder. Default: a phrasing of the task; the seed chooses
    it, and the variant of a task that has several."""
    instructions: Literal["seen", "unseen", "none"] = "seen"
    """seen: phrasings from the grammar of the demonstrations. unseen: paraphrases from another list. none: no
    instruction."""
    variant: str | None = None
    """Request this variant of the task in every episode."""
    n_action_steps: int | None = None
    """Execute this many actions of each chunk before the next query, without ensembling."""
    temporal_ensemble_coeff: float | None = None
    """Average the chunks that cover a step (temporal ensembling) with this coefficient. Default: 0.01, as in the paper,
    with ten queries per chunk."""
    replan_every: int | None = None
    """Steps between two queries with --temporal-ensemble-coeff. Default: 1, as in the paper."""
    sample: Sample = "mean"
    """mean: the deterministic chunk. episode: one noise sample per episode. chunk: a new sample at every query."""
    num_inference_steps: int | None = None
    """Flow matching and diffusion: steps from noise to a chunk. Default: as trained."""
    temperature: float | None = None
    """Autoregressive policies and flows: below 1, samples vary less."""
    top_p: float | None = None
    """Autoregressive policies: sample among the most likely tokens that together have this probability."""
    codes: Literal["gaussian", "code"] | None = None
    """Autoencoders: draw z from a normal distribution fitted to the codes, or take one of the codes."""
    horizon: int | None = None
    """Steps of an episode. Default: 1.2 times the longest demonstration without its idle steps, at least 400."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Precision of the policy; auto is bfloat16 on CUDA and on CPUs with AMX or AVX-512 BF16, where it is faster."""
    compile: bool = False
    """Compile the policy with torch.compile: the first query takes a minute, later ones are faster."""

    def __post_init__(self) -> None:
        if self.replan_every is not None and self.temporal_ensemble_coeff is None:
            raise ConfigError(
                f"--replan-every {self.replan_every} has no effect without --temporal-ensemble-coeff; "
                "add --temporal-ensemble-coeff 0.01, or leave it out"
            )
        if self.n_action_steps is not None and self.temporal_ensemble_coeff is not None:
            raise ConfigError(
                f"--n-action-steps {self.n_action_steps} has no effect with --temporal-ensemble-coeff, which queries "
                "every --replan-every steps; use one of them"
            )

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings among these that replace settings of the policy, for `act.checkpoint.load_policy`."""
        return {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}

    def executor(self, chunk_size: int, relative: bool = False) -> ChunkExecutor:
        """The executor that turns chunks into actions.

        Args:
            chunk_size: k.
            relative: the actions are relative to the present state, see `EpisodeSpec`.

        Raises:
            ConfigError: a setting does not fit the chunk's size.
        """
        if self.temporal_ensemble_coeff is not None:
            every = 1 if self.replan_every is None else self.replan_every
            return TemporalEnsemble(chunk_size, self.temporal_ensemble_coeff, every)
        if self.n_action_steps is not None:
            return RecedingHorizon(chunk_size, self.n_action_steps)
        return default_executor(chunk_size, relative)

    @classmethod
    def from_results(cls, stored: Mapping[str, Any]) -> Self:
        """The settings of a rollout, from those that its results store. Settings that older files lack have defaults.

        Raises:
            ConfigError: a value that the setting cannot have.
        """
        kinds, stored = get_type_hints(cls), current_names(stored)
        found = {field.name: stored[field.name] for field in fields(cls) if field.name in stored}
        for name, value in found.items():
            if not _fits(value, kinds[name]):
                raise ConfigError(f"{name} is {value!r} in the settings of the results; roll out again")
        # Older versions stored, and accepted, settings without effect.
        ignored = "replan_every" if found.get("temporal_ensemble_coeff") is None else "n_action_steps"
        return cls(**{name: value for name, value in found.items() if name != ignored})


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of a JSON file is one that a field of this type can have."""
    if isinstance(kind, UnionType) or (get_origin(kind) is not None and get_origin(kind) is not Literal):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    return type(value) is kind or (kind is float and type(value) is int)
