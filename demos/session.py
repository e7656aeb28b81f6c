"""A person's demonstrations, one after the other, in real time: wait, record, save. Knows no page and no keyboard.

    waiting ──start──► recording ──save──► a file; next seed, waiting
                        │  ▲  ├──discard──► nothing; same seed, waiting
                  pause │  │  ├──again────► nothing; same seed, recording
                        ▼  │  └──next─────► nothing; next seed, waiting
                       paused

While nobody moves, a recording may be "thinking": time stands still, as in a pause, until somebody moves again.

Somebody else shows it and passes on what the person asks for. An episode is on the disk when `save` has returned, and
otherwise not at all; nothing depends on how fast the clock ran, since time in an episode is the number of steps.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
from gymnasium.vector import SyncVectorEnv

from demos.episode import Episode, NoEpisodesError, episode_number, find_episodes
from demos.phrases import language_attributes, sample_instruction
from demos.record import spec_of
from demos.spec import EpisodeError
from demos.teleop import TeleopAgent
from demos.writer import EpisodeWriter
from envs.aloha import FPS
from envs.bimanual import BimanualEnv
from envs.rollout import Step, make_vector_env, render_cameras, rollout

Request = Literal["start", "pause", "save", "discard", "again", "next", "quit"]
State = Literal["waiting", "recording", "thinking", "paused"]
LATE = 5e-3  # s after its time: what counts as a late step
CATCH_UP = 5  # steps that may follow each other at once after a delay; what is longer is lost
FIRST_SEED = 20_000  # among those of demonstrations, above what experts usually record
GLANCE = 0.04  # s between two looks at the requests while nothing moves


class Pace:
    """Real time: `wait` returns once every 1 / FPS s, and counts the steps that came late."""

    def __init__(self) -> None:
        self.steps = self.late = 0
        self.seconds = 0.0
        self.resume()

    def resume(self) -> None:
        """The clock runs again after a pause."""
        self._last = self._due = time.perf_counter()

    def wait(self) -> None:
        self._due += 1 / FPS
        rest = self._due - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        elif rest < -CATCH_UP / FPS:
            self._due -= rest
        now = time.perf_counter()
        self.steps, self.late = self.steps + 1, self.late + (rest < -LATE)
        self.seconds, self._last = self.seconds + now - self._last, now

    @property
    def rate(self) -> float:
        """Control steps per second, pauses left out."""
        return self.steps / self.seconds if self.seconds else 0.0


class Session:
    """See the head of this file.

    Args:
        env_id: the task, by its Gymnasium id.
        cameras: camera → (height, width), recorded at every step.
        agent: acts on the person's wishes.
        folder: of the episodes; those already there stay, and numbers and seeds go on behind them.
        seed: of the first episode; None: behind the highest one in the folder, `FIRST_SEED` in an empty folder.
        horizon: steps after which an episode can only be saved or given up.
        patience: steps without motion after which time stops until somebody moves; 0: it never does. People stop to
            think, and a policy without memory may imitate that. While the goal is being held, time runs on.
        attributes: more root attributes for the files.
        instruction: what is to be done, in words; "": one of the phrasings that are known for a way of the task, which
            changes with the seed.

    Attributes:
        env: the simulated world.
        state: see the head of this file.
        seed: of the episode that waits or runs.
        t: number of steps recorded of it.
        observation: what was last seen, images included.
        stage, terms: of the reward after the last step.
        success, success_published: so far.
        saved: number of episodes in the folder.
        notice: what last happened, in words.
        instruction: what is to be done in this episode.
        pace: the clock of this episode.

    Raises:
        EpisodeError: the folder holds episodes of another kind.
        EnvError: unknown camera.
    """

    def __init__(
        self,
        env_id: str,
        cameras: Mapping[str, tuple[int, int]],
        agent: TeleopAgent,
        folder: Path,
        *,
        seed: int | None = None,
        horizon: int,
        patience: int = 0,
        attributes: Mapping[str, Any] | None = None,
        instruction: str = "",
    ):
        self.agent, self.folder, self.horizon, self.attributes = agent, folder, horizon, attributes
        self._given = instruction
        self.patience = patience
        self._venv = make_vector_env(env_id, cameras=dict(cameras), horizon=horizon)
        assert isinstance(self._venv, SyncVectorEnv)
        env = self._venv.envs[0].unwrapped
        assert isinstance(env, BimanualEnv)
        self.env, self.spec = env, spec_of(self._venv.envs[0])
        self._number, self.saved, self.seed = self._behind(seed)
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self.state: State = "waiting"
        self.notice = ""
        self.pace = Pace()

    def ask(self, request: Request) -> None:
        """Pass on what the person asks for; from any thread. What makes no sense in the present state is ignored."""
        self._requests.put(request)

    def run(self, show: Callable[["Session"], object]) -> None:
        """Demonstrations until somebody asks to quit; `show` is called after every step and some times a second else.

        Raises:
            EpisodeError: an episode cannot be written.
        """
        try:
            while self._wait_for_start(show):
                while self._record(show):
                    pass
        finally:
            self._venv.close()

    def _wait_for_start(self, show: Callable[["Session"], object]) -> bool:
        """The scene of the seed stands still. Returns whether an episode shall begin."""
        self._set_the_scene()
        while True:
            show(self)
            request = self._request(GLANCE)
            if request == "next":
                self.seed += 1
                self._set_the_scene()
            elif request in ("start", "again"):
                return True
            elif request == "quit":
                return False

    def _set_the_scene(self) -> None:
        self.instruction = self._given or sample_instruction(self.spec.env_id, self.seed)
        observation, info = self._venv.reset(seed=[self.seed])
        self.agent.reset([self.seed], observation)
        self.state, self.t, self.pace = "waiting", 0, Pace()
        self.observation = {name: value[0] for name, value in {**observation, **render_cameras(self._venv)}.items()}
        self._judge(0.0, info)

    def _record(self, show: Callable[["Session"], object]) -> bool:
        """One episode. Returns whether the same seed shall be recorded again at once."""
        path = self.folder / f"episode_{self._number}.hdf5"
        with EpisodeWriter(path, self.spec, seed=self.seed, expert="teleop", attributes=self.attributes) as writer:
            self.state, self.pace = "recording", Pace()
            for step in rollout(self._venv, self.agent, [self.seed], always_render=True):
                self._take_down(step, writer)
                show(self)
                request = self._request()
                if step.last and request in (None, "pause", "start"):
                    self.notice = f"{self.t} steps are the most: save or discard"
                    request = "pause"
                if request == "pause":
                    request = self._pause(show, step.last)
                elif request is None:
                    request = self._let_think(show)
                if request == "save":
                    self._save(writer)
                elif request == "discard":
                    self.notice = "discarded"
                elif request == "next":
                    self.seed += 1
                elif request == "quit":
                    self.ask("quit")
                elif request != "again":
                    self.pace.wait()
                    continue
                return request == "again"
        raise AssertionError("an episode ends with a request")

    def _pause(self, show: Callable[["Session"], object], full: bool) -> Request | None:
        """Stands still until something else is asked for; a full episode cannot go on."""
        self.state = "paused"
        while True:
            show(self)
            request = self._request(GLANCE)
            if request not in (None, "pause") and not (full and request == "start"):
                self.state = "recording"
                self.pace.resume()
                return request

    def _let_think(self, show: Callable[["Session"], object]) -> Request | None:
        """Time stops as long as nobody moves."""
        request = None
        while request is None and 0 < self.patience <= self.agent.still_steps and not self.env.goal_hold_running:
            self.state = "thinking"
            show(self)
            request = self._request(GLANCE / 4)
        if self.state == "thinking":
            self.state = "recording"
            self.pace.resume()
        return self._pause(show, full=False) if request == "pause" else request

    def _take_down(self, step: Step, writer: EpisodeWriter) -> None:
        self.observation = {name: value[0] for name, value in step.observation.items()}
        writer.append(self.observation, step.action[0], float(step.reward[0]), human=self.agent.human)
        self.t = step.t + 1
        self._judge(float(step.reward[0]), step.info)

    def _judge(self, stage: float, info: Mapping[str, np.ndarray]) -> None:
        self.stage = int(stage)
        self.terms = {name.removeprefix("term/"): bool(info[name][0]) for name in info if name.startswith("term/")}
        self.success = bool(info["is_success"][0])
        self.success_published = bool(info["is_success_published"][0])

    def _save(self, writer: EpisodeWriter) -> None:
        latencies = self.agent.latencies or (0.0,)
        timing = {"rate_hz": self.pace.rate, "late_steps": self.pace.late, "seconds": self.pace.seconds}
        timing |= {f"latency_ms_{q}": 1e3 * float(np.quantile(latencies, p)) for q, p in (("p50", 0.5), ("p99", 0.99))}
        # What was done counts, whatever was asked for.
        given = [self._given] if self._given else []
        timing |= language_attributes(self.spec.env_id, self.env.variant, self.seed, given)
        path = writer.close(self.success, self.success_published, timing)
        how = "a strict success" if self.success else "NOT a strict success"
        self.notice = f"saved {path.name}: {self.t} steps, {how}"
        self._number, self.saved, self.seed = episode_number(path) + 1, self.saved + 1, self.seed + 1

    def _request(self, wait: float = 0.0) -> Request | None:
        try:
            return self._requests.get(timeout=wait) if wait else self._requests.get_nowait()
        except Empty:
            return None

    def _behind(self, seed: int | None) -> tuple[int, int, int]:
        """The next number, the number of episodes in the folder, and the next seed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            paths = find_episodes(self.folder)
        except NoEpisodesError:
            return 0, 0, FIRST_SEED if seed is None else seed
        episodes = [Episode(path) for path in paths]
        for episode in episodes:
            if differences := episode.spec.differences(self.spec):
                raise EpisodeError(
                    f"{self.folder} holds other episodes (here: in the folder, there: asked for): "
                    f"{'; '.join(differences)}. Ask for the same, or name another folder"
                )
        seeds = [episode.seed for episode in episodes if episode.seed is not None]
        following = max(seeds) + 1 if seeds else FIRST_SEED
        return episode_number(paths[-1]) + 1, len(paths), following if seed is None else seed
