"""Laws of the agent: it looks only when it must, treats environments alike, and repeats itself exactly."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import NO_IMAGES, SPEC, TINY, family

from act.agent import PolicyAgent
from act.chunking import ChunkExecutor, OpenLoop, RecedingHorizon, TemporalEnsemble
from act.policies import Observation, Policy, make_policy

K = TINY.chunk_size


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    return make_policy(TINY.replace(cameras=("top",)), SPEC)


def observe(t: int, n: int, images: bool = True) -> dict[str, np.ndarray]:
    """What n environments show at step t; the first ones show the same whatever n."""
    observation = {
        "qpos": np.stack([np.random.default_rng((t, i)).normal(size=14) for i in range(n)]).astype(np.float32),
        "env_state": np.zeros((n, 7), np.float32),
    }
    if images:
        frames = [np.random.default_rng((t, i)).integers(0, 256, (24, 32, 3), np.uint8) for i in range(n)]
        observation["images/top"] = np.stack(frames)
    return observation


def act(agent: PolicyAgent, n: int, steps: int) -> np.ndarray:
    """(steps, n, 14), rendering only when the agent looks."""
    agent.reset(range(n), observe(0, n, images=False))
    return np.stack([agent(observe(t, n, images=agent.needs_images())) for t in range(steps)])


@pytest.mark.parametrize(
    ("executor", "queries"),
    [
        (OpenLoop(K), [0, 6, 12]),
        (RecedingHorizon(K, 4), [0, 4, 8, 12]),
        (TemporalEnsemble(K), list(range(14))),
        (TemporalEnsemble(K, replan_every=5), [0, 5, 10]),
    ],
)
def test_it_looks_only_when_the_policy_is_asked(policy, executor, queries):
    agent = PolicyAgent(policy, executor)
    for _ in range(2):  # the second wave as the first
        agent.reset([1, 2], observe(0, 2, images=False))
        looked = []
        for t in range(14):
            looked += [t] if agent.needs_images() else []
            action = agent(observe(t, 2, images=agent.needs_images()))
            assert action.shape == (2, 14)
            assert action.dtype == np.float32
        assert looked == queries
    assert len(agent.latencies) == 2 * len(queries) - 1  # all but the first, which warms up
    assert min(agent.latencies) > 0


def test_without_cameras_it_never_looks():
    agent = PolicyAgent(make_policy(TINY.replace(**NO_IMAGES), SPEC), OpenLoop(K))
    assert agent.cameras == ()
    agent.reset([0], observe(0, 1, images=False))
    assert not agent.needs_images()
    assert agent(observe(0, 1, images=False)).shape == (1, 14)


@pytest.mark.parametrize("make", [lambda: OpenLoop(K), lambda: TemporalEnsemble(K)])
def test_it_repeats_itself_and_treats_environments_alike(policy, make: Callable[[], ChunkExecutor]):
    three = act(PolicyAgent(policy, make()), 3, 10)
    agent = PolicyAgent(policy, make())
    for _ in range(2):  # an agent carries nothing from one wave to the next
        np.testing.assert_array_equal(act(agent, 3, 10), three)
    # Batches of other sizes sum in another order: equal up to rounding.
    np.testing.assert_allclose(act(agent, 1, 10), three[:, :1], atol=1e-4)


def test_reduced_precision_moves_actions_little_and_leaves_them_float32(policy):
    exact = act(PolicyAgent(policy, OpenLoop(K)), 3, K)
    reduced = act(PolicyAgent(policy, OpenLoop(K), dtype=torch.bfloat16), 3, K)
    assert reduced.dtype == np.float32
    assert 0 < np.abs(reduced - exact).max() < 0.02 * np.abs(exact).max()


def test_it_gives_the_first_actions_of_the_policys_chunk(policy):
    agent = PolicyAgent(policy, OpenLoop(K))
    actions = act(agent, 2, K)
    with torch.inference_mode():
        seen = observe(0, 2)
        images = {"top": torch.from_numpy(seen["images/top"])}
        chunk = policy.eval().predict(Observation(torch.from_numpy(seen["qpos"]), images))
    np.testing.assert_array_equal(actions, chunk.numpy().swapaxes(0, 1))


@pytest.mark.parametrize("sample", ["episode", "chunk"])
def test_chance_follows_from_the_seed_of_each_episode(policy, sample):
    """Whatever runs beside an episode; and once an episode, the same chance decides at every look."""

    def run(seeds: list[int], which: int, sample: str = sample) -> np.ndarray:
        agent = PolicyAgent(policy, RecedingHorizon(K, 2), sample=sample)  # pyright: ignore[reportArgumentType]
        seen = observe(0, 1)
        seen = {name: np.repeat(value, len(seeds), axis=0) for name, value in seen.items()}
        agent.reset(seeds, seen)
        return np.stack([agent(seen)[which] for _ in range(4)])

    alone, beside = run([7], 0), run([8, 7], 1)
    np.testing.assert_allclose(alone, beside, rtol=1e-5, atol=1e-6)
    assert np.abs(run([8, 7], 0) - beside).max() > 1e-4
    assert np.abs(run([7], 0, "mean") - alone).max() > 1e-4
    again = np.abs(alone[:2] - alone[2:]).max()  # the same observation, seen a second time
    assert (again < 1e-6) == (sample == "episode")


def test_an_episode_that_a_wave_holds_twice_is_drawn_twice():
    """And each as if the wave held no other."""
    torch.manual_seed(0)
    policy = make_policy(family("gan"), SPEC)
    agent = PolicyAgent(policy, OpenLoop(K), sample="episode")

    def first(*seeds: int) -> np.ndarray:
        observation = observe(0, 1, images=False)
        observation = {name: np.repeat(value, len(seeds), axis=0) for name, value in observation.items()}
        agent.reset(seeds, observation)
        return agent(observation)

    a, b, c = first(1, 1, 2)
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_allclose(first(2, 1, 1), [c, a, b], atol=1e-5)
    np.testing.assert_allclose(first(1), [a], atol=1e-5)
