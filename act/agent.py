"""A trained policy as an agent for environments: NumPy observations in, NumPy actions out.

policy = load_policy("runs/cube")
agent = agent_from(policy)
observation, info = env.reset(seed=100_000)
agent.reset([100_000])
action = agent.act(observation)  # one environment; agent(observations) takes N at once
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from act.agent_settings import AgentSettings
from act.chunking import ChunkExecutor
from act.device import autocast, pick_dtype
from act.memory import memory_named
from act.policies.base import Observation
from act.policies.policy import Policy
from act.policies.settings import Sample


class PolicyAgent:
    """A trained policy as an agent that acts in N environments at once.

    Args:
        policy: in evaluation mode, on the device where it is to run.
        executor: turns chunks into actions.
        compile: compile the policy for each batch size: the first query takes a minute, later ones are faster, on CUDA
            as one graph.
        dtype: of the policy's matrix products; inputs and actions are float32 in any case.
        sample: "mean": deterministic chunks. "episode": one noise sample per episode. "chunk": a new sample at every
            query. Each episode has its own noise, a function of its seed and, where a wave holds a seed several times,
            of the number among these.
        instruct: seed of an episode → its instruction; None: no instruction.

    Attributes:
        first_sample: number of a wave's first episode among those of its seed; 0 unless earlier ones were left out.
        cameras: the cameras that the policy needs.
        latencies: seconds of each query of the policy, with copies to and from the device; without the first query,
            which includes the warm-up.
    """

    def __init__(
        self,
        policy: Policy,
        executor: ChunkExecutor,
        compile: bool = False,
        dtype: torch.dtype = torch.float32,
        sample: Sample = "mean",
        instruct: Callable[[int], str | None] = lambda seed: None,
    ):
        self.policy, self.executor = policy.eval(), executor
        self.cameras = policy.cameras
        self.first_sample = 0
        self.latencies: list[float] = []
        self._device = next(policy.parameters()).device
        self._dtype = dtype
        self._sample = sample if policy.noise_dim else "mean"
        self.instruct, self._instruction = instruct, None
        self._warm = False
        self._answer = policy.predict
        if compile:
            self._answer = torch.compile(policy.predict, mode="reduce-overhead", dynamic=False)

    def reset(self, seeds: Sequence[int] = (0,), observation: Mapping[str, np.ndarray] | None = None) -> None:
        """Begins a new wave of N = len(seeds) episodes. The observation is not used: other agents need it."""
        self.executor.reset(len(seeds))
        times = [self.first_sample + list(seeds[:i]).count(seed) for i, seed in enumerate(seeds)]
        self._chances = [
            np.random.default_rng([seed, 0xAC7, *([again] if again else [])])
            for seed, again in zip(seeds, times, strict=True)
        ]
        self._instruction = self._told(seeds)
        self._chance = self._drawn() if self._sample == "episode" else None
        self._memory: dict[str, torch.Tensor] = {}

    def needs_images(self) -> bool:
        """Whether the next call reads images."""
        return bool(self.cameras) and self.executor.needs_chunk

    def __call__(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Observations with a leading N → actions (N, A) float32. Images are read only if `needs_images`."""
        return self.executor.step(self._predict(observation) if self.executor.needs_chunk else None)

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same for one environment: an observation of `gym.Env` → its action (A,) float32."""
        return self({name: np.asarray(value)[None] for name, value in observation.items()})[0]

    def _told(self, seeds: Sequence[int]) -> torch.Tensor | None:
        """(N, text_dim)"""
        if self.policy.instruction_encoder is None:
            return None
        return self.policy.instruction_encoder([self.instruct(seed) for seed in seeds])

    def _drawn(self) -> torch.Tensor:
        """(N, noise_dim) standard normal numbers, a row from each episode's own stream."""
        rows = [chance.standard_normal(self.policy.noise_dim, np.float32) for chance in self._chances]
        return torch.from_numpy(np.stack(rows)).to(self._device)

    def _predict(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N, k, A) float32, physical units."""
        start = time.perf_counter()
        advice = f"{self._device} has too little for {len(observation['qpos'])} environments at once; lower --num-envs"
        with memory_named(lambda: advice), torch.inference_mode(), autocast(self._device, self._dtype):
            seen = Observation(
                torch.from_numpy(observation["qpos"]),
                {name: torch.from_numpy(observation[f"images/{name}"]) for name in self.cameras},
                torch.from_numpy(observation["env_state"]) if self.policy.uses_env_state else None,
                instruction=self._instruction,
            )
            chance = self._drawn() if self._sample == "chunk" else self._chance
            # Copied: what a compiled policy has put there lives until its next call.
            self._memory = {name: value.clone() for name, value in self._memory.items()}
            answer = self._answer(seen.to(self._device), chance, self._memory)
            chunk = answer.cpu().numpy()  # the copy waits for the device
        if self._warm:
            self.latencies.append(time.perf_counter() - start)
        self._warm = True
        return chunk


def agent_from(
    policy: Policy, settings: AgentSettings | None = None, instruct: Callable[[int], str | None] | None = None
) -> PolicyAgent:
    """The agent of a policy: the only place that turns settings into a `PolicyAgent`.

    Args:
        policy: see `act.checkpoint.load_policy`.
        settings: None: the defaults, as scripts/rollout.py has them.
        instruct: seed of an episode → its instruction. None: `settings.instruction` in every episode.

    Raises:
        ConfigError: the settings do not fit the policy's chunk size.
    """
    settings = settings or AgentSettings()
    return PolicyAgent(
        policy,
        settings.executor(policy.chunk_size, policy.spec.relative),
        settings.compile,
        pick_dtype(settings.dtype, next(policy.parameters()).device),
        settings.sample,
        instruct or (lambda seed: settings.instruction),
    )
