"""Laws of the loop and of what is said about its episodes."""

import json
import math

import numpy as np
import pytest
from test_envs import SETTINGS, TASKS

from demos.demonstrators import Demonstrator
from envs.aloha import HOME_ACTION
from envs.results import (
    STORED_NAMES,
    EpisodeResult,
    command_jerk,
    evaluate,
    read_results,
    summarize,
    wilson_interval,
)
from envs.rollout import make_vector_env, rollout


class Wanderer:
    """Moves each episode by its own seed's random numbers, and looks at every third step."""

    cameras = ("top",)

    def reset(self, seeds, observation):
        self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.t = 0
        self.saw = []

    def needs_images(self):
        return self.t % 3 == 0

    def __call__(self, observation):
        self.saw.append("images/top" in observation)
        self.t += 1
        return np.stack([HOME_ACTION + rng.normal(0, 0.2, 14) for rng in self.rngs])


@pytest.mark.parametrize("num_envs", [1, 2, 3])
def test_episodes_do_not_depend_on_how_many_run_side_by_side(num_envs):
    venv = make_vector_env(TASKS[0], num_envs, parallel=False, horizon=12)
    agent = Wanderer()
    agent.needs_images = lambda: False
    episodes = {}
    for step in rollout(venv, agent, [4, 5, 6, 7]):
        for i, seed in enumerate(step.seeds):
            episodes.setdefault(seed, []).append(np.concatenate([step.observation["qpos"][i], step.action[i]]))
    alone = make_vector_env(TASKS[0], 1, horizon=12)
    for seed in (4, 5, 6, 7):
        steps = [np.concatenate([s.observation["qpos"][0], s.action[0]]) for s in rollout(alone, agent, [seed])]
        np.testing.assert_array_equal(episodes[seed], steps)


def test_pictures_are_rendered_only_when_the_agent_looks():
    venv = make_vector_env(TASKS[0], 1, horizon=9, **SETTINGS)
    agent = Wanderer()
    steps = list(rollout(venv, agent, [0]))
    assert agent.saw == [t % 3 == 0 for t in range(9)]
    assert ["images/top" in step.observation for step in steps] == agent.saw
    assert all("images/top" in step.observation for step in rollout(venv, agent, [0], always_render=True))
    assert [step.last for step in steps] == [False] * 8 + [True]
    venv.close()


def test_results_name_every_seed_once():
    venv = make_vector_env(TASKS[0], 2, parallel=False, horizon=5)
    agent = Wanderer()
    agent.needs_images = lambda: False
    ended = []
    results = evaluate(venv, agent, range(10, 15), progress=ended.append)
    assert [result.seed for result in results] == [10, 11, 12, 13, 14]
    assert ended == [2, 2, 1]
    assert not any(result.success for result in results)
    summary = summarize(results)
    assert summary["success_rate"] == 0
    assert summary["highest_stage"][0] == 5
    assert summary["median_success_step"] is None


def test_results_with_the_names_of_before_are_read(tmp_path):
    episodes = [
        EpisodeResult(i, True, True, 4, 9, 8, 1.0, variant, "left") for i, variant in enumerate(("left", "right"))
    ]
    summary = summarize(episodes)
    assert summary["instruction_followed"] == 0.5
    assert summary["variants"] == {"left": 1, "right": 1}
    text = json.dumps({"settings": {}, "summary": summary, "episodes": [vars(each) for each in episodes]})
    for old, new in STORED_NAMES.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    assert all(f'"{old}"' in text for old in STORED_NAMES)
    (tmp_path / "results.json").write_text(text)
    found = read_results(tmp_path / "results.json")
    assert found["summary"] == json.loads(json.dumps(summary))
    assert [EpisodeResult(**row) for row in found["episodes"]] == episodes


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (43, 50), (100, 100), (200, 200)])
def test_wilson_interval_solves_its_equation(successes, trials):
    """Its ends are the rates p at which the observed rate lies exactly z standard errors away."""
    low, high = wilson_interval(successes, trials)
    rate = successes / trials
    assert 0 <= low <= rate <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            assert abs(rate - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / trials), abs=1e-9)


def test_jerk_of_a_cubic_is_its_third_derivative():
    t = np.arange(50) / 50
    actions = np.zeros((50, 1, 14))
    actions[:, 0, :] = (t**3)[:, None]
    assert command_jerk(actions) == pytest.approx([6.0])
    actions[:, 0, [6, 13]] = np.random.default_rng(0).normal(size=(50, 2))  # grippers do not count
    assert command_jerk(actions) == pytest.approx([6.0])


def test_a_wave_ends_once_all_of_it_has_succeeded():
    """And an episode's figures are those until its success, whatever else was in its wave."""
    together, alone = (make_vector_env(TASKS[0], n, parallel=False, horizon=600) for n in (2, 1))
    steps: list[int] = []
    results = evaluate(together, Demonstrator(TASKS[0]), range(4), watch=lambda step: steps.append(step.t))
    assert all(result.success and result.success_published for result in results)
    assert max(steps) < 450
    assert [result.length for result in results] == [(result.success_step or 0) + 1 for result in results]
    assert evaluate(alone, Demonstrator(TASKS[0]), range(4)) == results
