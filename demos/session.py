"""Records a person's demonstrations one after the other, in real time, independently of any page or keyboard.

    waiting ──start──► recording ──save──► a file; next seed, waiting
                        │  ▲  ├──discard──► nothing; same seed, waiting
                  pause │  │  ├──again────► nothing; same seed, recording
                        ▼  │  └──next─────► nothing; next seed, waiting
                       paused

With `patience`, a recording in which nothing moves is "thinking": time stops until something moves again.

A caller shows the session and passes requests on. An episode is on the disk once it has been saved, and leaves no file
otherwise. Time in an episode is the number of steps, so results do not depend on the clock.
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
LATE = 5e-3  # s after which a step counts as late
CATCH_UP = 5  # steps that may follow without a wait after a delay; a longer delay is dropped
FIRST_SEED = 20_000  # of an empty folder; recordings of the expert usually stay below
POLL = 0.04  # s between two polls of the requests while nothing moves


class Pace:
    """A real-time clock: `wait` returns once every 1 / FPS s, and counts the late steps."""

    def __init__(self) -> None:
        self.steps = self.late = 0
        self.seconds = 0.0
        self.resume()

    def resume(self) -> None:
        """Restarts the clock after a pause."""
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
        """Control steps per second, without pauses."""
        return self.steps / self.seconds if self.seconds else 0.0


class Session:
    """Records demonstrations of one person, see the head of this file.

    Args:
        env_id: the task, by its Gymnasium id.
        cameras: camera → (height, width), recorded at every step.
        agent: follows the person's targets.
        folder: of the episodes. Existing episodes stay; numbers and seeds continue after them.
        seed: of the first episode. None: after the highest one in the folder, `FIRST_SEED` in an empty folder.
        horizon: steps after which an episode can only be saved or discarded.
        patience: steps without motion after which time stops until something moves; 0: never. People stop to think,
            and a policy without memory may imitate that. Time does not stop while the goal is reached and held.
        attributes: more root attributes for the files.
        instruction: of every episode. "": one from the phrases of the task, for a variant that the seed decides.

    Attributes:
        env: the simulation.
        state: see the head of this file.
        seed: of the episode that waits or runs.
        t: number of its recorded steps.
        observation: the last one, with images.
        stage, terms: of the reward after the last step.
        success, success_published: so far.
        saved: number of episodes in the folder.
        notice: a sentence about the last event.
        instruction: of this episode.
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
        """Passes a request on, from any thread. A request that does not apply in the present state is ignored."""
        self._requests.put(request)

    def run(self, show: Callable[["Session"], object]) -> None:
        """Records demonstrations until "quit" is requested. `show` is called after every step, and at every poll.

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
        """Shows the scene of the seed at rest. Returns whether to record an episode."""
        self._reset_scene()
        while True:
            show(self)
            request = self._request(POLL)
            if request == "next":
                self.seed += 1
                self._reset_scene()
            elif request in ("start", "again"):
                return True
            elif request == "quit":
                return False

    def _reset_scene(self) -> None:
        self.instruction = self._given or sample_instruction(self.spec.env_id, self.seed)
        observation, info = self._venv.reset(seed=[self.seed])
        self.agent.reset([self.seed], observation)
        self.state, self.t, self.pace = "waiting", 0, Pace()
        self.observation = {name: value[0] for name, value in {**observation, **render_cameras(self._venv)}.items()}
        self._judge(0.0, info)

    def _record(self, show: Callable[["Session"], object]) -> bool:
        """Records one episode. Returns whether to record the same seed again at once."""
        path = self.folder / f"episode_{self._number}.hdf5"
        with EpisodeWriter(path, self.spec, seed=self.seed, expert="teleop", attributes=self.attributes) as writer:
            self.state, self.pace = "recording", Pace()
            for step in rollout(self._venv, self.agent, [self.seed], always_render=True):
                self._append(step, writer)
                show(self)
                request = self._request()
                if step.last and request in (None, "pause", "start"):
                    self.notice = f"the episode has {self.t} steps, the maximum: save or discard"
                    request = "pause"
                if request == "pause":
                    request = self._pause(show, step.last)
                elif request is None:
                    request = self._think(show)
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
        """Stands still until another request; an episode of `horizon` steps cannot go on."""
        self.state = "paused"
        while True:
            show(self)
            request = self._request(POLL)
            if request not in (None, "pause") and not (full and request == "start"):
                self.state = "recording"
                self.pace.resume()
                return request

    def _think(self, show: Callable[["Session"], object]) -> Request | None:
        """Stops time as long as nothing moves."""
        request = None
        while request is None and 0 < self.patience <= self.agent.still_steps and not self.env.goal_hold_running:
            self.state = "thinking"
            show(self)
            request = self._request(POLL / 4)
        if self.state == "thinking":
            self.state = "recording"
            self.pace.resume()
        return self._pause(show, full=False) if request == "pause" else request

    def _append(self, step: Step, writer: EpisodeWriter) -> None:
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
        # The variant that was shown, which may differ from that of the instruction.
        given = [self._given] if self._given else []
        timing |= language_attributes(self.spec.env_id, self.env.variant, self.seed, given)
        path = writer.close(self.success, self.success_published, timing)
        how = "strict success" if self.success else "NO strict success"
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
                    f"{self.folder} holds other episodes (here: in the folder, there: requested): "
                    f"{'; '.join(differences)}. Request the same, or name another folder"
                )
        seeds = [episode.seed for episode in episodes if episode.seed is not None]
        following = max(seeds) + 1 if seeds else FIRST_SEED
        return episode_number(paths[-1]) + 1, len(paths), following if seed is None else seed
