"""The viewer page: episodes in 3-D, with images, joints, reward stages and the predictions of a policy."""

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
    DEMONSTRATED,
    INTERPOLATED,
    PREDICTED,
    SAMPLES,
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
    """An episode that can be shown: its name in the list, and a function that loads it."""

    label: str
    load: Callable[[], Episode]


class ViewerPage:
    """Shows episodes; with a policy also its predicted chunks, attention, keypoints and latents.

    Args:
        scene_page: the page; if it has a scene, it is that of `env`.
        sources: the episodes, at least one.
        env: whose scene is shown. None: images and plots only.
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
        self._changed = Event()  # a control changed: `run` has to update the page
        # From the current step on: the predicted chunk, (k, J), samples, (n, k, J), and an interpolated chunk.
        self._predicted: np.ndarray | None = None
        self._samples: np.ndarray | None = None
        self._interpolated: np.ndarray | None = None
        self._shown: dict[str, Any] = {}  # name → handles in the scene
        self._number, self.episode = 0, sources[0].load()
        self._build(scene_page.server.gui)

    def _build(self, gui: viser.GuiApi) -> None:
        spec = self.episode.spec
        self._choice = gui.add_dropdown("Episode", [source.label for source in self.sources])
        self._about = gui.add_markdown(self._describe())
        self._step = gui.add_slider("Step", min=0, max=self.episode.length - 1, step=1, initial_value=0)
        self._play = gui.add_checkbox("Play", False)
        self._speed = gui.add_slider("Speed", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        with gui.add_folder("Images"):
            self._overlay = gui.add_dropdown("Overlay", get_args(Overlay), visible=self.inspector is not None)
            self._pictures = Pictures(self.scene_page.server, spec.cameras)
        with gui.add_folder("Joints and reward stages"):
            self._joint = gui.add_dropdown("Joint", spec.joint_names)
            self._joints = gui.add_uplot(**self._joint_plot(), height=220)
            self._stages = gui.add_uplot(**self._stage_plot(), height=120, visible=self.episode.reward is not None)
        self._sample_count = self._share = self._from = self._to = self._samples_plot = None
        policy = None if self.inspector is None else self.inspector.policy
        if policy is not None and policy.noise_dim:
            with gui.add_folder("Samples"):
                self._sample_count = gui.add_slider("Number", min=0, max=SAMPLES, step=1, initial_value=SAMPLES // 2)
                if policy.has_latent:
                    names = [source.label for source in self.sources]
                    self._to = gui.add_dropdown("Towards", names, initial_value=names[min(1, len(names) - 1)])
                else:
                    numbers = [str(i + 1) for i in range(SAMPLES)]
                    self._from = gui.add_dropdown("From sample", numbers, initial_value="1")
                    self._to = gui.add_dropdown("Towards sample", numbers, initial_value="2")
                self._share = gui.add_slider("Interpolation", min=0.0, max=1.0, step=0.05, initial_value=0.0)
                self._samples_plot = gui.add_uplot(**self._sample_plot(), height=180, legend=uplot.Legend(show=False))
        self._latents = None
        if self.latents is not None:
            with gui.add_folder("Latents"):
                self._latents = gui.add_image(latent_plot(self.latents, 0), label="mean z of every episode, main axes")
        handles: list[Any] = [self._choice, self._step, self._play, self._speed, self._overlay, self._joint]
        handles += [self._sample_count, self._share, self._from, self._to]
        for handle in handles:
            if handle is not None:
                handle.on_update(self._notice)

    async def _notice(self, _: object) -> None:
        self._changed.set()

    def run(self) -> None:
        """Updates the page until the process ends."""
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
        """Updates the page; plots and predictions, which cost most, only with `plots`."""
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
                self._sample(self.inspector, t, seen)
            self._draw_paths(t)
            plots_now = [(self._joints, self._joint_plot()), (self._stages, self._stage_plot())]
            plots_now += [] if self._samples_plot is None else [(self._samples_plot, self._sample_plot())]
            for plot, content in plots_now:
                plot.data, plot.series, plot.scales = content["data"], content["series"], content["scales"]
        if self.inspector is not None:
            seen = self.inspector.overlay(self.episode, t, seen, self._overlay.value)
        for name, picture in seen.items():
            self._pictures.show(name, picture)

    def _sample(self, inspector: PolicyInspector, t: int, seen: dict[str, np.ndarray]) -> None:
        """Samples, and the chunk between two of them or between two codes, if the policy has noise."""
        if self._sample_count is None or self._share is None or self._to is None:
            return
        self._samples = (
            inspector.sample(self.episode, t, seen, self._sample_count.value) if self._sample_count.value else None
        )
        ends: tuple[int, int] | Episode = self.episode
        if self._from is not None:
            ends = int(self._from.value) - 1, int(self._to.value) - 1
        elif self._share.value:
            ends = self.sources[self._to.options.index(self._to.value)].load()
        self._interpolated = (
            inspector.interpolate(self.episode, t, seen, ends, self._share.value) if self._share.value else None
        )

    @property
    def _t(self) -> int:
        return min(self._step.value, self.episode.length - 1)

    def _describe(self) -> str:
        episode = self.episode
        facts = [f"{episode.length} steps, {episode.length / episode.spec.fps:.1f} s"]
        facts += [] if episode.seed is None else [f"seed {episode.seed}"]
        facts += [f"by {as_text(episode.expert)}"] if episode.expert else []
        facts += [] if episode.success is None else [f"strict success: **{'yes' if episode.success else 'no'}**"]
        if episode.human is not None and not episode.human.all():
            facts.append(f"a person acts in {episode.human.sum()} steps, first at {episode.human.argmax()}")
        words = "".join(f"\n- {as_text(phrasing)}" for phrasing in episode.instructions)
        return f"{', '.join(facts)}\n\n{as_text(episode.spec.task)}\n{words}"

    def _joint_plot(self) -> dict[str, Any]:
        """One joint over the seconds: observed, commanded, and predicted from the current step on."""
        episode, joint = self.episode, 0
        if hasattr(self, "_joints"):
            joint = episode.spec.joint_names.index(self._joint.value)
        reached, commanded = episode.qpos[:, joint], episode.action[:, joint]
        lines = {"observed": (reached, REACHED), "commanded": (commanded, DEMONSTRATED)}
        if self._predicted is not None:
            predicted = np.full(episode.length, np.nan)
            ahead = predicted[self._t : self._t + len(self._predicted)]
            ahead[:] = self._predicted[: len(ahead), joint]
            lines["predicted"] = predicted, PREDICTED
        low, high = min(reached.min(), commanded.min()), max(reached.max(), commanded.max())
        return self._over_time(lines, low, high)

    def _sample_plot(self) -> dict[str, Any]:
        """The chosen joint of every chunk over the seconds from the current step on; always as many lines."""
        chunks, joint = self._chunks(), self.episode.spec.joint_names.index(self._joint.value)
        k = 1 if self.inspector is None else self.inspector.policy.chunk_size
        names = [*(f"sample {i + 1}" for i in range(SAMPLES)), "predicted", "interpolated"]
        nothing = np.full((k, joint + 1), np.nan), NOW
        lines = {name: chunks.get(name, nothing) for name in names}
        values = [chunk[:, joint] for chunk, _ in lines.values()]
        found = np.concatenate([value for value in values if not np.isnan(value).any()] or [np.zeros(1)])
        low, high, slack = found.min(), found.max(), 0.05 * np.ptp(found) + 0.01
        widths = {"predicted": 2.5, "interpolated": 2.5}
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
        """Arguments of uPlot for lines over the seconds of the episode, and a vertical one at the current step."""
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
        """Draws the paths of the tools from the current step on in 3-D: demonstrated, and predicted."""
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
                thick = 0.002 if name.startswith("sample ") else 0.006
                scene = self.scene_page.server.scene
                self._shown[name].append(scene.add_line_segments(f"/{name}/{arm}", lines, rgb(colour), thickness=thick))

    def _chunks(self) -> dict[str, tuple[np.ndarray, str]]:
        """Name → chunk from the current step on, (k, J), and its colour."""
        chunks = {} if self._predicted is None else {"predicted": (self._predicted, PREDICTED)}
        fan = () if self._samples is None else self._samples
        chunks |= {f"sample {i + 1}": (chunk, sample_colour(i)) for i, chunk in enumerate(fan)}
        if self._interpolated is not None:
            chunks["interpolated"] = self._interpolated, INTERPOLATED
        return chunks


def env_of(episode: Episode) -> BimanualEnv | None:
    """An environment that can show an episode: its own, or any with its arms; None for another robot."""
    known = episode.spec.env_id in envs.TASKS.values()
    if not known and tuple(episode.spec.joint_names) != ALOHA_JOINTS:
        return None
    name = episode.spec.env_id if known else next(iter(envs.TASKS.values()))
    env = gym.make(name, disable_env_checker=True, lazy=True).unwrapped
    assert isinstance(env, BimanualEnv)
    env.reset(seed=0)
    return env
