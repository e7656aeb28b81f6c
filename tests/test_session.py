"""Laws of a session of demonstrations: what is saved is whole, nothing else is on the disk, time is real."""

import time
from threading import Thread

import h5py
import numpy as np
import pytest
from test_teleop import Sweep

from demos.demonstrators import Demonstrator
from demos.episode import Episode, find_episodes
from demos.replay import replay
from demos.session import FIRST_SEED, Pace, Session
from demos.spec import EpisodeError
from demos.teleop import TeleopAgent
from envs.rollout import make_vector_env

TASK = "BimanualTransferCube-v0"
CAMERAS = {"top": (12, 16)}


def run(session: Session, *script: tuple[object, str], until: float = 60.0) -> list[str]:
    """Runs a session and asks for things: each request once its condition, a step or a state, is met. Tells states."""
    asked, states, ends = iter(script), [], time.monotonic() + until
    wanted = next(asked)

    def show(session: Session) -> None:
        nonlocal wanted
        assert time.monotonic() < ends, f"still waiting for {wanted} in {session.state} at step {session.t}"
        states.append(session.state)
        if wanted is not None and wanted[0] in (session.state, session.t):
            session.ask(wanted[1])  # pyright: ignore[reportArgumentType]
            wanted = next(asked, None)

    session.run(show)
    return states


def make_session(folder, horizon: int = 200, **settings) -> Session:
    return Session(TASK, CAMERAS, TeleopAgent(), folder, horizon=horizon, **settings)


def test_a_saved_episode_is_whole_and_replays(tmp_path):
    session = make_session(tmp_path, attributes={"assist": "nobody"})
    run(session, ("waiting", "start"), (20, "save"), ("waiting", "quit"))
    episode = Episode(tmp_path / "episode_0.hdf5")
    assert episode.length == 20
    assert episode.seed == FIRST_SEED
    assert episode.expert == "teleop"
    assert episode.attributes["assist"] == "nobody"
    assert episode.human is not None
    assert episode.human.all()
    assert episode.attributes["rate_hz"] == pytest.approx(20 / episode.attributes["seconds"], rel=0.2)
    assert episode.attributes["late_steps"] >= 0
    assert replay(episode).qpos_difference == 0


def test_only_what_is_saved_is_on_the_disk(tmp_path):
    session = make_session(tmp_path)
    run(
        session,
        *(("waiting", "start"), (3, "discard")),  # the same seed waits
        *(("waiting", "start"), (4, "again"), (6, "next")),  # the same seed at once; then the next
        *(("waiting", "start"), (5, "save")),
        ("waiting", "quit"),
    )
    episodes = [Episode(path) for path in find_episodes(tmp_path)]
    seeds = [episode.seed for episode in episodes]
    assert seeds == [FIRST_SEED + 1]
    assert episodes[0].length == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode_0.hdf5"]
    assert session.seed == FIRST_SEED + 2


def test_a_session_goes_on_behind_the_last_episode(tmp_path):
    run(make_session(tmp_path, seed=7), ("waiting", "start"), (2, "save"), ("waiting", "quit"))
    run(make_session(tmp_path), ("waiting", "start"), (2, "save"), ("waiting", "quit"))
    assert [Episode(path).seed for path in find_episodes(tmp_path)] == [7, 8]
    with pytest.raises(EpisodeError, match=r"camera top is 12x16 here, 24x32 there"):
        Session(TASK, {"top": (24, 32)}, TeleopAgent(), tmp_path, horizon=9)


def test_a_pause_stops_time_but_not_the_episode(tmp_path):
    session = make_session(tmp_path)
    states = run(
        session,
        *(("waiting", "start"), (5, "pause"), ("paused", "pause"), ("paused", "start"), (10, "save")),
        ("waiting", "quit"),
    )
    assert "paused" in states
    assert Episode(tmp_path / "episode_0.hdf5").length == 10


def test_time_waits_for_a_person_who_stands_still(tmp_path):
    session = make_session(tmp_path, patience=4)
    states, moved = [], False

    def show(session: Session) -> None:
        nonlocal moved
        states.append(session.state)
        if session.state == "waiting":
            session.ask("quit" if session.saved else "start")
        elif session.state == "thinking" and states.count("thinking") == 10:
            session.agent.nudge("left", np.array([0.0, 0.0, 0.02]))
            moved = True
        elif session.state == "thinking" and moved:
            session.ask("save")

    session.run(show)
    actions = Episode(tmp_path / "episode_0.hdf5").action
    moving = np.abs(np.diff(actions, axis=0)).max(axis=1) > 1e-4
    assert moving[:4].tolist() == [False, False, False, True]  # four steps, then it waits
    assert moving[-5:].tolist() == [True, False, False, False, False]
    assert states.count("thinking") > 10


def test_time_runs_on_while_the_goal_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("envs.bimanual.BimanualEnv.goal_hold_running", property(lambda env: env._t < 30))
    session = make_session(tmp_path, patience=4)
    run(session, ("waiting", "start"), ("thinking", "save"), ("waiting", "quit"))
    assert Episode(tmp_path / "episode_0.hdf5").length == 30


def test_an_episode_that_is_full_waits_to_be_saved(tmp_path):
    session = make_session(tmp_path, horizon=6)
    run(session, ("waiting", "start"), ("paused", "start"), ("paused", "save"), ("waiting", "quit"))
    assert Episode(tmp_path / "episode_0.hdf5").length == 6


def test_quitting_in_the_middle_leaves_nothing(tmp_path):
    run(make_session(tmp_path), ("waiting", "start"), (5, "quit"))
    assert list(tmp_path.iterdir()) == []


class Clock:
    """Time that passes only where something takes or waits for it."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_is_real_time_and_counts_what_is_late(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("demos.session.time", clock)
    pace, ends = Pace(), []
    for step in range(10):
        clock.sleep(0.05 if step == 4 else 0.001)
        pace.wait()
        ends.append(round(clock.now, 3))
    assert ends == [0.02, 0.04, 0.06, 0.08, 0.13, 0.131, 0.14, 0.16, 0.18, 0.2], "it catches up"
    assert (pace.steps, pace.late, pace.rate) == (10, 2, pytest.approx(50))


def test_an_expert_helps_through_the_rollout_loop(tmp_path):
    """The left arm's commands are the scripted expert's, step for step."""
    agent = TeleopAgent(Demonstrator(TASK), ("left",))
    session = Session(TASK, CAMERAS, agent, tmp_path, seed=3, horizon=60)
    run(session, ("waiting", "start"), (30, "save"), ("waiting", "quit"))
    venv, expert = make_vector_env(TASK), Demonstrator(TASK)
    observation, _ = venv.reset(seed=[3])
    commands, _ = expert.commands(3, observation["env_state"][0])
    venv.close()
    np.testing.assert_array_equal(Episode(tmp_path / "episode_0.hdf5").action[:, :7], commands[:30, :7])


def test_requests_may_come_from_any_thread(tmp_path):
    session = make_session(tmp_path)
    thread = Thread(target=session.run, args=(lambda _: None,))
    thread.start()
    for request in ("start", "pause", "save", "quit"):
        session.ask(request)
        time.sleep(0.3)
    thread.join(10)
    assert not thread.is_alive()
    assert session.saved == 1


def test_the_mark_of_human_steps_survives_the_file(tmp_path):
    agent = TeleopAgent(Sweep())
    session = Session(TASK, CAMERAS, agent, tmp_path, horizon=60)

    def show(session: Session) -> None:
        if session.state == "waiting":
            session.ask("quit" if session.saved else "start")
        elif session.t == 12:
            agent.take_over()
        elif session.t == 20:
            session.ask("save")

    session.run(show)
    episode = Episode(tmp_path / "episode_0.hdf5")
    assert episode.human is not None
    np.testing.assert_array_equal(episode.human, np.arange(20) >= 12)
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        del file["human"]
        file["human"] = np.zeros(20)
    with pytest.raises(EpisodeError, match="/human has dtype float64; it must be bool"):
        Episode(tmp_path / "episode_0.hdf5")
