"""The settings of each generator, and the table of all of them. Without torch, so that `--help` answers at once."""

from dataclasses import dataclass
from typing import Literal

from act.errors import ConfigError
from act.policies.checks import check_bounds, check_not_negative, check_one_of, check_positive, check_types

UPPER_BOUNDS = {
    "n_vae_encoder_layers": 256,
    "latent_dim": 16_384,
    "bins": 65_536,
    "coefficients": 10_000,
    "transforms": 64,
    "flow_width": 16_384,
    "critic_width": 16_384,
    "num_train_timesteps": 100_000,
    "num_inference_steps": 100_000,
}
"""Far beyond what anybody trains: a mistyped or damaged size is refused before memory is allocated."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Base of the generators' settings."""

    def __post_init__(self) -> None:
        check_types(self)
        check_bounds(self, UPPER_BOUNDS)


@dataclass(frozen=True)
class CVAEConfig(GeneratorConfig):
    """ACT's conditional VAE; the paper's numbers by default."""

    n_vae_encoder_layers: int = 4
    """Layers of the posterior q(z | qpos, actions)."""
    latent_dim: int = 32
    """Length of z."""
    kl_weight: float = 10.0
    """β. The authors advise 10 to 100, at which z carries no information on most demonstrations."""
    prior: Literal["standard", "learned"] = "standard"
    """Distribution of z without actions: standard normal, or a normal distribution predicted from keypoints (or object
    poses) and joint positions."""
    free_nats: float = 0.0
    """KL, as a mean over the batch, below which the posterior pays nothing for z."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "n_vae_encoder_layers", "latent_dim")
        check_not_negative(self, "kl_weight", "free_nats")
        check_one_of(self, "prior", "standard", "learned")


@dataclass(frozen=True)
class RegressionConfig(GeneratorConfig):
    """ACT without its VAE: no latent variable, and no settings of its own."""


@dataclass(frozen=True)
class AutoencoderConfig(GeneratorConfig):
    """A latent without a prior."""

    n_vae_encoder_layers: int = 1
    """Layers of the encoder z(qpos, actions)."""
    latent_dim: int = 32
    """Length of z."""
    codes: Literal["gaussian", "code"] = "gaussian"
    """How z is sampled: from a normal distribution fitted to the latents of the demonstrations, or as one of these
    latents. Without sampling z is 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "n_vae_encoder_layers", "latent_dim")
        check_one_of(self, "codes", "gaussian", "code")


@dataclass(frozen=True)
class GANConfig(GeneratorConfig):
    """A generator, and a critic that separates its chunks from demonstrated ones."""

    latent_dim: int = 32
    """Length of the generator's noise."""
    adversarial_weight: float = 0.1
    """Weight of the adversarial loss in the generator's loss."""
    l1_weight: float = 1.0
    """Weight of the L1 to the demonstrated chunk in the generator's loss; 0 is purely adversarial."""
    critic_width: int = 128
    """Channels of the critic."""
    critic_lr: float = 1e-3
    """Highest learning rate of the critic."""
    r1_weight: float = 1.0
    """γ of R1, the penalty on the critic's slope at demonstrations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "latent_dim", "critic_width", "critic_lr")
        check_not_negative(self, "adversarial_weight", "l1_weight", "r1_weight")


@dataclass(frozen=True)
class AutoregressiveConfig(GeneratorConfig):
    """A chunk as tokens, each predicted from those before it."""

    code: Literal["dct", "bins"] = "dct"
    """What a token is: a coefficient of the chunk's cosine transform, lowest frequency first, or a value at a step."""
    coefficients: int = 8
    """Coefficients of the cosine transform for each number of an action; the regressed chunk supplies the rest."""
    bin_width: float = 0.05
    """Width of a bin, in standard deviations. In a chunk of 50 steps the slowest coefficient is about 7 wide."""
    bins: int = 1024
    """Number of bins, half of them on either side of 0."""
    mixture: int = 5
    """Logistic distributions in the mixture that predicts a token."""
    temperature: float = 1.0
    """Of sampling; lower ones stay nearer to the most likely chunk."""
    top_p: float = 1.0
    """Sample among the most likely bins that together have this probability."""
    nll_weight: float = 0.1
    """Weight of a token's cross entropy; that of the regressed chunk's L1 is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "coefficients", "bin_width", "bins", "mixture", "temperature", "top_p", "nll_weight")
        check_one_of(self, "code", "dct", "bins")


@dataclass(frozen=True)
class FlowConfig(GeneratorConfig):
    """A normalising flow over the leading coefficients of the chunk's cosine transform."""

    coefficients: int = 8
    """Coefficients of the cosine transform for each number of an action that the flow models; the others get normal
    noise of learned scale."""
    coupled: bool = False
    """Each layer changes half of the coefficients given the other half, so that sampling takes two passes a layer. By
    default it changes each given all before it, and sampling takes as many passes as there are coefficients: coupled
    halves separate two modes badly."""
    transforms: int = 1
    """Layers of the flow, each a rational-quadratic spline (Durkan et al. 2019, arXiv 1906.04032)."""
    flow_width: int = 256
    """Width of the networks that predict the splines."""
    nll_weight: float = 0.1
    """Weight of the negative log-likelihood per number; that of L1 is 1. A confident flow has steep gradients, and at 1
    they drown those of the L1."""
    temperature: float = 1.0
    """Scale of the noise that samples start from (Kingma and Dhariwal 2018, arXiv 1807.03039, section 6)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "coefficients", "transforms", "flow_width", "nll_weight", "temperature")


@dataclass(frozen=True)
class FlowMatchingConfig(GeneratorConfig):
    """Noise that flows to a chunk along straight lines."""

    num_inference_steps: int = 5
    """Euler steps from noise to a chunk."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_inference_steps")


@dataclass(frozen=True)
class DiffusionConfig(GeneratorConfig):
    """Noise that is removed from a chunk step by step."""

    num_train_timesteps: int = 100
    """Noise levels in training."""
    num_inference_steps: int = 10
    """Of them in rollouts (DDIM, Song et al. 2021, arXiv 2010.02502)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_train_timesteps", "num_inference_steps")
        if self.num_inference_steps > self.num_train_timesteps:
            raise ConfigError(
                f"num_inference_steps is {self.num_inference_steps}, more than num_train_timesteps, "
                f"{self.num_train_timesteps}; choose fewer"
            )


GENERATORS: dict[str, tuple[type[GeneratorConfig], str]] = {
    "act": (CVAEConfig, "cvae:CVAE"),
    "regression": (RegressionConfig, "regression:Regression"),
    "autoencoder": (AutoencoderConfig, "autoencoder:Autoencoder"),
    "gan": (GANConfig, "gan:GAN"),
    "autoregressive": (AutoregressiveConfig, "autoregressive:Autoregressive"),
    "flow": (FlowConfig, "flow:Flow"),
    "flow-matching": (FlowMatchingConfig, "flow_matching:FlowMatching"),
    "diffusion": (DiffusionConfig, "diffusion:Diffusion"),
}
"""Name of --policy → (settings, module and class of this package)."""
