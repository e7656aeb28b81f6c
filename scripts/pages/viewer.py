"""The viewer page: scrub through episodes in 3-D, with pictures, joints, stages, and what a policy makes of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import viser
from viser import uplot

import envs
from demos.episode import Episode
from demos.ik import BimanualIK
from demos.spec import ALOHA_JOINTS
from envs.aloha import ARMS
from envs.bimanual import BimanualEnv
from scripts.pages.policy_inspector import (
    BETWEEN,
    DEMONSTRATED,
    DRAWS,
    PREDICTED,
    Overlay,
    PolicyInspector,
    latent_plot,
    rgb,
    sample_colour,
)
from scripts.pages.scene_page import Pictures, ScenePage, as_text

SCENE_EVERY, PLOTS_EVERY = 2, 10  # steps between two updates while it plays
REACHED, NOW = "#2b6cb0", "#888888"


@dataclass(frozen=True)
class Source:
    """An episode that can be shown: its name in the list, and how to get it."""

    label: str
    load: Callable[[], Episode]


class ViewerPage:
    """Shows episodes; with a policy also what it would do, where it looks, and its latents.

    Args:
        scene_page: the page; its world, if it has one, is that of `env`.
        sources: the episodes, at least one.
        env: whose world is shown, or None: pictures and plots only.
        inspector: of a policy, or None.
        latents: (episodes, 2) to plot, or None.
    """

    def __init__(
        self,
        scene_page: ScenePage,
        sources: Sequence[Source],
        env: BimanualEnv | None,
        inspector: PolicyInspector | None = None,
        latents: np.ndarray | None = None,
    ):
        self.scene_page, self.sources, self.env = scene_page, sources, env
        self.inspector, self.latents = inspector, latents
        self._arms = None if env is None else BimanualIK()
        self._changed = Event()  # somebody moved something: `run` has to look
        # From the step that is shown: what is predicted, (k, J), a fan of draws, (n, k, J), and a chunk between two.
        self._predicted: np.ndarray | None = None
        self._fan: np.ndarray | None = None
        self._between: np.ndarray | None = None
        self._shown: dict[str, Any] = {}  # what hangs in the scene for now
        self._number, self.episode = 0, sources[0].load()
        self._build(scene_page.server.gui)

    def _build(self, gui: viser.GuiApi) -> None:
        spec = self.episode.spec
        self._choice = gui.add_dropdown("Episode", [source.label for source in self.sources])
        self._about = gui.add_markdown(self._describe())
        self._step = gui.add_slider("Step", min=0, max=self.episode.length - 1, step=1, initial_value=0)
        self._play = gui.add_checkbox("Play", False)
        self._speed = gui.add_slider("Speed", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        with gui.add_folder("Pictures"):
            self._overlay = gui.add_dropdown("Policy sees", get_args(Overlay), visible=self.inspector is not None)
            self._pictures = Pictures(self.scene_page.server, spec.cameras)
        with gui.add_folder("Joints and stages"):
            self._joint = gui.add_dropdown("Joint", spec.joint_names)
            self._joints = gui.add_uplot(**self._joint_plot(), height=220)
            self._stages = gui.add_uplot(**self._stage_plot(), height=120, visible=self.episode.reward is not None)
        self._draws = self._share = self._from = self._to = self._ways = None
        policy = None if self.inspector is None else self.inspector.policy
        if policy is not None and policy.noise_dim:
            with gui.add_folder("Ways of going on"):
                self._draws = gui.add_slider("Draws", min=0, max=DRAWS, step=1, initial_value=DRAWS // 2)
                if policy.has_latent:
                    names = [source.label for source in self.sources]
                    self._to = gui.add_dropdown("Towards", names, initial_value=names[min(1, len(names) - 1)])
                else:
                    numbers = [str(i + 1) for i in range(DRAWS)]
                    self._from = gui.add_dropdown("From draw", numbers, initial_value="1")
                    self._to = gui.add_dropdown("Towards draw", numbers, initial_value="2")
                self._share = gui.add_slider("Share of the way", min=0.0, max=1.0, step=0.05, initial_value=0.0)
                self._ways = gui.add_uplot(**self._way_plot(), height=180, legend=uplot.Legend(show=False))
        self._latents = None
        if self.latents is not None:
            with gui.add_folder("Latents"):
                self._latents = gui.add_image(latent_plot(self.latents, 0), label="mean z of every episode, main axes")
        handles: list[Any] = [self._choice, self._step, self._play, self._speed, self._overlay, self._joint]
        handles += [self._draws, self._share, self._from, self._to]
        for handle in handles:
            if handle is not None:
                handle.on_update(self._notice)

    async def _notice(self, _: object) -> None:
        self._changed.set()

    def run(self) -> None:
        """Shows what is asked for until the process ends."""
        self._refresh()
        due = time.perf_counter()
        while True:
            if not self._play.value:
                self._changed.wait()
                self._changed.clear()
                self._refresh()
                due = time.perf_counter()
                continue
            t = min(self._step.value + SCENE_EVERY, self.episode.length - 1)
            self._step.value = t
            if t == self.episode.length - 1:
                self._play.value = False
            self._refresh(plots=t % PLOTS_EVERY == 0 or not self._play.value)
            due = max(due + SCENE_EVERY / self.episode.spec.fps / self._speed.value, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))

    def _refresh(self, plots: bool = True) -> None:
        """Brings the page up to date; plots and predictions, which cost most, only if asked for."""
        number = self._choice.options.index(self._choice.value)
        if number != self._number:
            self._number, self.episode = number, self.sources[number].load()
            self._step.value, self._step.max = 0, self.episode.length - 1
            self._about.content = self._describe()
            self._stages.visible = self.episode.reward is not None
            if self._latents is not None and self.latents is not None:
                self._latents.image = latent_plot(self.latents, number)
        t = self._t
        if self.env is not None:
            poses = self.episode.env_state
            self.env.set_state(self.episode.qpos[t], None if poses is None else poses[t])
            self.scene_page.show(self.env.data)
        seen = {name: self.episode.frame(name, t) for name in self.episode.spec.cameras}
        if plots:
            if self.inspector is not None:
                self._predicted = self.inspector.predict(self.episode, t, seen)
                self._draw(self.inspector, t, seen)
            self._draw_paths(t)
            plots_now = [(self._joints, self._joint_plot()), (self._stages, self._stage_plot())]
            plots_now += [] if self._ways is None else [(self._ways, self._way_plot())]
            for plot, content in plots_now:
                plot.data, plot.series, plot.scales = content["data"], content["series"], content["scales"]
        if self.inspector is not None:
            seen = self.inspector.overlaid(self.episode, t, seen, self._overlay.value)
        for name, picture in seen.items():
            self._pictures.show(name, picture)

    def _draw(self, inspector: PolicyInspector, t: int, seen: dict[str, np.ndarray]) -> None:
        """The fan of draws, and the chunk between two codes, if the policy knows several ways."""
        if self._draws is None or self._share is None or self._to is None:
            return
        self._fan = inspector.drawn(self.episode, t, seen, self._draws.value) if self._draws.value else None
        ends: tuple[int, int] | Episode = self.episode
        if self._from is not None:
            ends = int(self._from.value) - 1, int(self._to.value) - 1
        elif self._share.value:
            ends = self.sources[self._to.options.index(self._to.value)].load()
        self._between = inspector.between(self.episode, t, seen, ends, self._share.value) if self._share.value else None

    @property
    def _t(self) -> int:
        return min(self._step.value, self.episode.length - 1)

    def _describe(self) -> str:
        episode = self.episode
        told = [f"{episode.length} steps, {episode.length / episode.spec.fps:.1f} s"]
        told += [] if episode.seed is None else [f"seed {episode.seed}"]
        told += [f"by {as_text(episode.expert)}"] if episode.expert else []
        told += [] if episode.success is None else [f"strict success: **{'yes' if episode.success else 'no'}**"]
        if episode.human is not None and not episode.human.all():
            told.append(f"a person acts in {episode.human.sum()} steps, first at {episode.human.argmax()}")
        words = "".join(f"\n- {as_text(phrasing)}" for phrasing in episode.instructions)
        return f"{', '.join(told)}\n\n{as_text(episode.spec.task)}\n{words}"

    def _joint_plot(self) -> dict[str, Any]:
        """Over the seconds, a joint: reached, commanded, predicted from here on."""
        episode, joint = self.episode, 0
        if hasattr(self, "_joints"):
            joint = episode.spec.joint_names.index(self._joint.value)
        reached, commanded = episode.qpos[:, joint], episode.action[:, joint]
        lines = {"reached": (reached, REACHED), "commanded": (commanded, DEMONSTRATED)}
        if self._predicted is not None:
            predicted = np.full(episode.length, np.nan)
            ahead = predicted[self._t : self._t + len(self._predicted)]
            ahead[:] = self._predicted[: len(ahead), joint]
            lines["predicted"] = predicted, PREDICTED
        low, high = min(reached.min(), commanded.min()), max(reached.max(), commanded.max())
        return self._over_time(lines, low, high)

    def _way_plot(self) -> dict[str, Any]:
        """Over the seconds from here on, the joint that is chosen in every chunk; always as many lines."""
        chunks, joint = self._chunks(), self.episode.spec.joint_names.index(self._joint.value)
        k = 1 if self.inspector is None else self.inspector.policy.chunk_size
        names = [*(f"draw {i + 1}" for i in range(DRAWS)), "predicted", "between"]
        nothing = np.full((k, joint + 1), np.nan), NOW
        lines = {name: chunks.get(name, nothing) for name in names}
        values = [chunk[:, joint] for chunk, _ in lines.values()]
        found = np.concatenate([value for value in values if not np.isnan(value).any()] or [np.zeros(1)])
        low, high, slack = found.min(), found.max(), 0.05 * np.ptp(found) + 0.01
        widths = {"predicted": 2.5, "between": 2.5}
        series = [
            uplot.Series(label=name, stroke=colour, width=widths.get(name, 1.0)) for name, (_, colour) in lines.items()
        ]
        return {
            "data": (np.arange(k) / self.episode.spec.fps, *values),
            "series": (uplot.Series(label="seconds"), *series),
            "scales": {
                "x": uplot.Scale(time=False),
                "y": uplot.Scale(range=(low - slack, high + slack)),
            },
        }

    def _stage_plot(self) -> dict[str, Any]:
        reward = np.zeros(self.episode.length) if self.episode.reward is None else self.episode.reward
        return self._over_time({"reward stage": (reward, REACHED)}, 0.0, 4.0)

    def _over_time(self, lines: dict[str, tuple[np.ndarray, str]], low: float, high: float) -> dict[str, Any]:
        """What uPlot needs for lines over the seconds of the episode, and an upright one where we are."""
        now = np.full(self.episode.length, np.nan)
        here = now[max(0, self._t - 1) : self._t + 1]
        here[:] = (low, high)[: len(here)]
        lines = {**lines, "now": (now, NOW)}
        seconds = np.arange(self.episode.length) / self.episode.spec.fps
        series = [uplot.Series(label=name, stroke=colour, width=1.5) for name, (_, colour) in lines.items()]
        slack = 0.05 * (high - low) + 0.01
        return {
            "data": (seconds, *(values for values, _ in lines.values())),
            "series": (uplot.Series(label="seconds"), *series),
            "scales": {"x": uplot.Scale(time=False), "y": uplot.Scale(range=(low - slack, high + slack))},
        }

    def _draw_paths(self, t: int) -> None:
        """In 3-D, where the tools are led from here on: as demonstrated, and as predicted."""
        if self._arms is None:
            return
        steps = int(self.episode.spec.fps) if self._predicted is None else len(self._predicted)
        chunks = {"demonstrated": (self.episode.action[t : t + steps], DEMONSTRATED)} | self._chunks()
        for name in self._shown.keys() - chunks.keys():
            for handle in self._shown.pop(name):
                handle.remove()
        for name, (actions, colour) in chunks.items():
            self._shown[name] = []
            for i, arm in enumerate(ARMS):
                joints = actions[:, 7 * i : 7 * i + 6].astype(np.float64)
                path = np.stack([self._arms.forward(arm, each)[0] for each in joints])
                lines = np.stack([path[:-1], path[1:]], axis=1) if len(path) > 1 else np.zeros((1, 2, 3))
                thick = 0.002 if name.startswith("draw ") else 0.006
                scene = self.scene_page.server.scene
                self._shown[name].append(scene.add_line_segments(f"/{name}/{arm}", lines, rgb(colour), thickness=thick))

    def _chunks(self) -> dict[str, tuple[np.ndarray, str]]:
        """Name → chunk from the step that is shown, (k, J), and its colour."""
        chunks = {} if self._predicted is None else {"predicted": (self._predicted, PREDICTED)}
        fan = () if self._fan is None else self._fan
        chunks |= {f"draw {i + 1}": (chunk, sample_colour(i)) for i, chunk in enumerate(fan)}
        if self._between is not None:
            chunks["between"] = self._between, BETWEEN
        return chunks


def world_of(episode: Episode) -> BimanualEnv | None:
    """The world in which an episode can be shown: its own, or any with its arms; None for another robot."""
    known = episode.spec.env_id in envs.TASKS.values()
    if not known and tuple(episode.spec.joint_names) != ALOHA_JOINTS:
        return None
    name = episode.spec.env_id if known else next(iter(envs.TASKS.values()))
    env = gym.make(name, disable_env_checker=True, lazy=True).unwrapped
    assert isinstance(env, BimanualEnv)
    env.reset(seed=0)
    return env
