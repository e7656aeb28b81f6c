"""Chunks become actions: each executor against the plain definition of what it does."""

import numpy as np
import pytest

from act.chunking import ChunkExecutor, OpenLoop, RecedingHorizon, TemporalEnsemble
from act.errors import ConfigError

N, K, A, STEPS = 3, 7, 2, 25


def run(executor: ChunkExecutor, seed: int = 0) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """(STEPS, N, A) actions, and the chunk (N, K, A) that was asked for at each step where one was."""
    rng = np.random.default_rng(seed)
    executor.reset(N)
    actions, chunks = [], {}
    for t in range(STEPS):
        if executor.needs_chunk:
            chunks[t] = rng.standard_normal((N, K, A)).astype(np.float32)
        actions.append(executor.step(chunks.get(t)))
    return np.stack(actions), chunks


@pytest.mark.parametrize("execute", [1, 3, K])
def test_receding_horizon_follows_the_latest_chunk_and_asks_every_execute_steps(execute: int):
    actions, chunks = run(RecedingHorizon(K, execute))
    assert list(chunks) == list(range(0, STEPS, execute))
    for t, action in enumerate(actions):
        start = t - t % execute
        np.testing.assert_array_equal(action, chunks[start][:, t - start])
    assert actions.dtype == np.float32


def test_open_loop_executes_whole_chunks():
    np.testing.assert_array_equal(run(OpenLoop(K))[0], run(RecedingHorizon(K, K))[0])


@pytest.mark.parametrize("coeff", [0.01, 0.0, 1.0, -0.5])
@pytest.mark.parametrize("every", [1, 2, 3, K])
def test_temporal_ensemble_equals_the_brute_force_formula(coeff: float, every: int):
    actions, chunks = run(TemporalEnsemble(K, coeff, every))
    assert list(chunks) == list(range(0, STEPS, every))
    for t, action in enumerate(actions):
        live = [chunks[start][:, t - start] for start in sorted(chunks) if start <= t < start + K]  # oldest first
        weights = np.exp(-coeff * np.arange(len(live)))
        expected = np.average(np.stack(live), axis=0, weights=weights)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)
    assert actions.dtype == np.float32


def test_with_one_prediction_alive_the_ensemble_is_open_loop():
    np.testing.assert_allclose(run(TemporalEnsemble(K, replan_every=K))[0], run(OpenLoop(K))[0])


def test_a_large_coefficient_leaves_only_the_oldest_prediction():
    actions, chunks = run(TemporalEnsemble(K, coeff=50.0))
    for t in range(K, STEPS):
        np.testing.assert_allclose(actions[t], chunks[t - K + 1][:, K - 1], rtol=1e-5)


@pytest.mark.parametrize("executor", [OpenLoop(K), RecedingHorizon(K, 2), TemporalEnsemble(K, replan_every=2)])
def test_reset_forgets_everything_and_a_wave_may_have_another_size(executor: ChunkExecutor):
    first, _ = run(executor)
    executor.reset(1)
    assert executor.step(np.zeros((1, K, A), np.float32)).shape == (1, A)
    np.testing.assert_array_equal(run(executor)[0], first)


def test_an_early_chunk_replaces_the_plan():
    executor = OpenLoop(K)
    executor.reset(1)
    executor.step(np.zeros((1, K, A), np.float32))
    assert not executor.needs_chunk
    assert executor.step(np.ones((1, K, A), np.float32)).tolist() == [[1.0, 1.0]]
    assert executor.step().tolist() == [[1.0, 1.0]]


def test_actions_are_copies():
    executor = OpenLoop(K)
    executor.reset(1)
    chunk = np.zeros((1, K, A), np.float32)
    executor.step(chunk)[:] = 5
    chunk[:] = 7
    assert executor.step().tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OpenLoop(0), "chunk_size is 0: a chunk holds at least 1 action"),
        (lambda: RecedingHorizon(50, 60), "cannot execute 60 actions of a chunk of 50: choose 1 to 50"),
        (lambda: RecedingHorizon(50, 0), "cannot execute 0 actions of a chunk of 50: choose 1 to 50"),
        (
            lambda: TemporalEnsemble(50, replan_every=51),
            "cannot query every 51 steps with chunks of 50: choose 1 to 50",
        ),
        (lambda: TemporalEnsemble(50, 30.0), "ensemble coefficient is 30.0: choose a number between -10 and 10"),
        (
            lambda: TemporalEnsemble(50, float("nan")),
            "ensemble coefficient is nan: choose a number between -10 and 10",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message: str):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == message


def test_a_missing_or_misshapen_chunk_is_refused():
    executor = TemporalEnsemble(K)
    executor.reset(N)
    with pytest.raises(ValueError, match="TemporalEnsemble needs a chunk at this step, given None"):
        executor.step()
    with pytest.raises(ValueError, match=r"chunk has shape \(3, 6, 2\), expected \(3, 7, A\)"):
        executor.step(np.zeros((N, K - 1, A), np.float32))
