"""The contract of a generator: from an encoded observation to a chunk, with a loss to train it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from act.policies.actions import ActionHead
from act.policies.config import PolicyConfig
from act.policies.observation import EncodedObservation, ObservationEncoder
from act.policies.transformer import ChunkTransformer


class Generator(nn.Module, ABC):
    """Base of all generators.

    A subclass is built from (its own config, config of the policy, encoder, head) and implements `loss` and `sample`.

    Args:
        own_tokens: tokens that it puts before those of the observation.
        more_queries: decoder queries beyond those of the chunk's k steps.

    Attributes:
        transformer: encoder of tokens and decoder of queries.
        head: the policy's action head: decoded tokens → chunk.
        noise_dim: length of the noise that decides between several chunks; 0: there is only one.
        has_latent: `latent` and `decode` turn chunks into latents and back.
    """

    head: ActionHead
    noise_dim: int = 0
    has_latent: bool = False

    def __init__(
        self,
        policy: PolicyConfig,
        encoder: ObservationEncoder,
        head: ActionHead,
        own_tokens: int = 0,
        more_queries: int = 0,
    ):
        super().__init__()
        self.transformer = ChunkTransformer(policy, encoder.token_dims, own_tokens, more_queries)
        object.__setattr__(self, "head", head)  # not registered here: its parameters are the policy's

    @abstractmethod
    def loss(
        self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor, valid_steps: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scalars: "loss", the generator's own to minimise, and its named parts.

        Args:
            target: (B, k, C) the demonstrated chunk.
            is_pad: (B, k) bool, True after an episode's end.
            valid_steps: see `Batch`.
        """

    @abstractmethod
    def sample(self, encoded: EncodedObservation, noise: Tensor | None = None) -> Tensor:
        """A chunk (B, k, C) for standard normal noise (B, noise_dim); None: the mean or most likely one."""

    def latent(self, qpos: Tensor, instruction: Tensor | None, target: Tensor, is_pad: Tensor) -> Tensor | None:
        """The latent of each demonstrated chunk, (B, latent_dim), or None.

        Args:
            qpos: (B, J) z-scores.
            instruction: (B, d_model).
        """
        return None

    def decode(self, encoded: EncodedObservation, latent: Tensor) -> Tensor | None:
        """The chunk (B, k, C) of a latent, or None."""
        return None

    def log_likelihood(self, encoded: EncodedObservation, target: Tensor) -> Tensor | None:
        """Of each demonstrated chunk, (B,) nats, if it is exact; else None."""
        return None

    def diagnostics(self, encoded: EncodedObservation, target: Tensor, is_pad: Tensor) -> dict[str, float]:
        """Numbers for plots that are no losses."""
        return {}

    def parameter_groups(self, groups: list[dict]) -> list[dict]:
        """The optimiser's groups; a generator may give its parameters settings of their own."""
        return groups

    def masked_actions(self, target: Tensor, is_pad: Tensor) -> Tensor:
        """The joints of a chunk, (B, k, A) z-scores; padding is 0, so that not even a NaN there can reach a sum."""
        return target[..., : self.head.action_dim].masked_fill(is_pad[..., None], 0.0)
