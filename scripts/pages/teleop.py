"""The teleoperation page: one browser has the controls, others watch.

The first browser that opens the page gets the controls: gizmos at the tools, buttons, sliders and keys. When it
disconnects, a running episode pauses, and the next browser that connects or requests the controls gets them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import viser

from demos.ik import quaternion_matrix
from demos.session import Request, Session
from demos.teleop import GRASP_POSES
from envs.aloha import ARMS, FPS
from envs.gl import mujoco
from scripts.pages.scene_page import Pictures, ScenePage, as_text

SCENE_EVERY, PICTURES_EVERY, STATUS_EVERY = 2, 4, 8  # steps between two updates
TURN = np.radians(5)  # of one key press

# World axes: x right, y away from the viewer, z up. Keys around F and around J, as the hands lie.
MOVE_KEYS = {
    "left": {"F": (-1, 0, 0), "H": (1, 0, 0), "T": (0, 1, 0), "G": (0, -1, 0), "R": (0, 0, 1), "V": (0, 0, -1)},
    "right": {"J": (-1, 0, 0), "L": (1, 0, 0), "I": (0, 1, 0), "K": (0, -1, 0), "U": (0, 0, 1), "M": (0, 0, -1)},
}
GRIPPER_KEY = {"left": "B", "right": "N"}
POSE_KEYS = {"left": dict(zip(GRASP_POSES, "123", strict=True)), "right": dict(zip(GRASP_POSES, "890", strict=True))}
REQUEST_KEYS: dict[Request, str] = {"start": "P", "save": "Z", "discard": "X", "again": "C", "next": "Y"}
ROWS: tuple[dict[str, Request], ...] = (
    {"Start": "start", "Pause": "pause", "Save": "save"},
    {"Discard": "discard", "Reset": "again", "Next": "next"},
)
KEYS = """
| | left arm | right arm |
|---|---|---|
| left, right | F, H | J, L |
| away, towards you | T, G | I, K |
| up, down | R, V | U, M |
| turn about that axis | with Shift | with Shift |
| gripper | B | N |
| tool down, level, sideways | 1, 2, 3 | 8, 9, 0 |

P start, pause, continue; Z save; X discard: the same seed waits; C reset: the same seed starts again at once; Y next
seed; O helper waits. Click on the scene first.
"""


class TeleopPage:
    """Shows a session and passes the actions of the person at the page on to it.

    Args:
        session: to show; `session.run(page.show)` runs it.
        scene_page: the page.
        helper: name of the agent's helper, "" without one.
    """

    def __init__(self, session: Session, scene_page: ScenePage, helper: str = ""):
        self.session, self.agent, self.scene_page, self.helper = session, session.agent, scene_page, helper
        self.server = scene_page.server
        self._driver: int | None = None
        self._controls: _Controls | None = None
        self._count = 0
        with self.server.gui.add_folder("Episode", order=0):
            self._status = self.server.gui.add_markdown("")
        with self.server.gui.add_folder("What is recorded", order=3):
            self._pictures = Pictures(self.server, session.env.cameras)
        self._offers: dict[int, viser.GuiButtonHandle] = {}
        self.server.on_client_connect(self._on_connect)
        self.server.on_client_disconnect(self._on_disconnect)

    async def _on_connect(self, client: viser.ClientHandle) -> None:
        if self._driver is None:
            self._give_controls(client)
            return
        client.gui.add_markdown("**You are watching.** Another browser has the controls.", order=-1)
        offer = client.gui.add_button("Take the controls", order=-0.5, visible=False)
        self._offers[client.client_id] = offer

        @offer.on_click
        async def _(_: object) -> None:
            if self._driver is None:
                offer.visible = False
                self._give_controls(client)

    async def _on_disconnect(self, client: viser.ClientHandle) -> None:
        self._offers.pop(client.client_id, None)
        if client.client_id != self._driver:
            return
        self._driver = self._controls = None
        self.session.ask("pause")
        for offer in self._offers.values():
            offer.visible = True

    def _give_controls(self, client: viser.ClientHandle) -> None:
        self._driver = client.client_id
        for offer in self._offers.values():
            offer.visible = False
        self._controls = _Controls(client, self.session, bool(self.agent.assisted_arms))

    def show(self, session: Session) -> None:
        """Updates the page; called after every control step."""
        self._count += 1
        moving = session.state == "recording"
        if self._count % SCENE_EVERY == 0 or not moving:
            self.scene_page.show(session.env.data)
            if self._controls is not None:
                self._controls.follow()
        if self._count % PICTURES_EVERY == 0:
            for name in session.env.cameras:
                self._pictures.show(name, session.observation[f"images/{name}"])
        if self._count % STATUS_EVERY == 0 or not moving:
            status = self._describe()
            if status != self._status.content:
                self._status.content = status

    def _describe(self) -> str:
        """The state of the session as Markdown."""
        session, pace = self.session, self.session.pace
        state = "recording, time waits for you" if session.state == "thinking" else session.state
        state += "" if self._driver is not None else ", and no browser has the controls"
        success = "**reached**" if session.success else "not yet"
        lines = [
            f"**{state}**, seed {session.seed}, step {session.t} ({session.t / FPS:.1f} s)",
            f"{session.saved} episodes in {session.folder}",
            f"Reward stage **{session.stage}** of 4, strict success: {success}",
            ", ".join(f"{'✔' if value else '–'} {name.replace('_', ' ')}" for name, value in session.terms.items()),
            *(f"{arm} tool: {self._tool_state(arm)}" for arm in ARMS),
            *(f"{name}: {_place(pose[:3])}" for name, pose in self._objects().items()),
            f"{pace.rate:.1f} steps per second, {pace.late} of {pace.steps} late",
        ]
        if self.helper:
            lines.append(f"{self.helper}: {self._helper_state()}")
        if session.instruction:
            lines.insert(1, f"To do: **{as_text(session.instruction)}**")
        return "\n\n".join(([f"*{session.notice}*"] if session.notice else []) + lines)

    def _objects(self) -> dict[str, np.ndarray]:
        poses = self.session.observation["env_state"].reshape(-1, 7)
        return dict(zip(self.session.env.objects, poses, strict=True))

    def _tool_state(self, arm: str) -> str:
        follower, start = self.agent.followers[arm], 7 * ARMS.index(arm)
        at, _ = follower.ik.forward(arm, self.session.observation["qpos"][start : start + 6])
        text = _place(at)
        if arm not in self.agent.human_arms:
            return text
        if follower.out_of_reach:
            text += f", **out of reach by {1e3 * follower.distance:.0f} mm**"
        if follower.at_limit:
            text += f", at its limit: {', '.join(name.replace('_', ' ') for name in follower.at_limit)}"
        return text

    def _helper_state(self) -> str:
        if self.agent.assisted_arms:
            return (
                f"moves the {' and '.join(self.agent.assisted_arms)} arm{', waits' if self.agent.helper_waits else ''}"
            )
        return (
            "you have taken over" if self.agent.human_in_control else "acts; grab a gizmo or press a key to take over"
        )


class _Controls:
    """The controls, in one browser."""

    def __init__(self, client: viser.ClientHandle, session: Session, waits: bool):
        self.client, self.session, self.agent = client, session, session.agent
        self._held: set[str] = set()  # arms whose gizmo is being dragged
        with client.gui.add_folder("Controls", order=1):
            for row in ROWS:
                buttons = client.gui.add_button_group("", tuple(row))
                buttons.on_click(self._asynchronous(lambda buttons=buttons, row=row: session.ask(row[buttons.value])))
            self._step = client.gui.add_slider("Key step [mm]", min=1, max=20, step=1, initial_value=5)
            self._sliders = {arm: self._gripper(arm) for arm in self.agent.human_arms}
            self._helper_waits = client.gui.add_checkbox("Helper waits (O)", False, visible=waits)
            self._helper_waits.on_update(self._asynchronous(self._wait))
        with client.gui.add_folder("Keys", order=2, expand_by_default=False):
            client.gui.add_markdown(KEYS)
        self._gizmos = {arm: self._gizmo(arm) for arm in self.agent.human_arms}
        self._bind_keys()

    def follow(self) -> None:
        """Moves gizmos and sliders to the targets, except a gizmo that is being dragged."""
        for arm, gizmo in self._gizmos.items():
            position, rotation, opening = self.agent.target(arm)
            if arm not in self._held:
                gizmo.position = position
                quaternion = np.zeros(4)
                mujoco.mju_mat2Quat(quaternion, rotation.ravel())  # pyright: ignore
                gizmo.wxyz = quaternion
            if abs(self._sliders[arm].value - opening) > 0.005:
                self._sliders[arm].value = round(opening, 2)
        if self._helper_waits.value != self.agent.helper_waits:
            self._helper_waits.value = self.agent.helper_waits

    def _gizmo(self, arm: str) -> viser.TransformControlsHandle:
        gizmo = self.client.scene.add_transform_controls(f"/gizmo/{arm}", scale=0.12, line_width=3.0, depth_test=False)

        @gizmo.on_update
        async def _(event: viser.TransformControlsEvent) -> None:
            if event.phase == "start":
                self._held.add(arm)
            if event.phase == "end":
                self._held.discard(arm)
            if self._take_over():
                self.agent.move(arm, np.array(gizmo.position), quaternion_matrix(np.array(gizmo.wxyz)))

        return gizmo

    def _gripper(self, arm: str) -> viser.GuiSliderHandle:
        slider = self.client.gui.add_slider(f"{arm} gripper", min=0.0, max=1.0, step=0.01, initial_value=0.0)

        @slider.on_update
        async def _(event: viser.GuiEvent) -> None:
            if event.client_id is not None and self._take_over():  # moved by the person, not by `follow`
                self.agent.grip(arm, slider.value)

        return slider

    def _bind_keys(self) -> None:
        for arm in self.agent.human_arms:
            for key, axis in MOVE_KEYS[arm].items():
                direction = np.array(axis, float)
                self._key(f"{arm} arm: move along {_axis(axis)}", key, partial(self._move, arm, direction))
                turn = partial(self._move, arm, direction, turn=True)
                self._key(f"{arm} arm: turn about {_axis(axis)}", key, turn, "shift")
            self._key(f"{arm} gripper: open or close", GRIPPER_KEY[arm], partial(self._toggle, arm))
            for pose, key in POSE_KEYS[arm].items():
                self._key(f"{arm} tool: {pose}", key, partial(self._point, arm, pose))
        self._key("Helper waits, or continues", "O", self._toggle_waiting)
        for request, key in REQUEST_KEYS.items():
            self._key(request, key, partial(self._ask, request))

    def _key(self, label: str, key: Any, act: Callable[[], object], modifier: Any = None) -> None:
        self.client.gui.add_command(label, hotkey=key, modifier=modifier).on_trigger(self._asynchronous(act))

    def _ask(self, request: Request) -> None:
        running = self.session.state in ("recording", "thinking")
        self.session.ask("pause" if request == "start" and running else request)

    def _take_over(self) -> bool:
        """Takes over from a helper. Returns whether the person can move anything: not before the start."""
        if self.session.state == "waiting":
            return False
        self.agent.take_over()
        return True

    def _move(self, arm: str, direction: np.ndarray, turn: bool = False) -> None:
        if not self._take_over():
            return
        if turn:
            self.agent.nudge(arm, np.zeros(3), TURN * direction)
        else:
            self.agent.nudge(arm, 1e-3 * self._step.value * direction)

    def _point(self, arm: str, pose: str) -> None:
        if self._take_over():
            self.agent.move(arm, self.agent.target(arm)[0], quaternion_matrix(GRASP_POSES[pose][arm]))

    def _toggle(self, arm: str) -> None:
        if self._take_over():
            self.agent.grip(arm, 0.0 if self.agent.target(arm)[2] > 0.5 else 1.0)

    def _wait(self) -> None:
        self.agent.helper_waits = self._helper_waits.value

    def _toggle_waiting(self) -> None:
        self.agent.helper_waits = not self.agent.helper_waits

    @staticmethod
    def _asynchronous(act: Callable[[], object]) -> Callable[[Any], Any]:
        """viser runs coroutines in the order of their events, but plain functions in threads, in any order."""

        async def run(_: Any) -> None:
            act()

        return run


def _axis(axis: tuple[int, int, int]) -> str:
    return next(f"{'+' if value > 0 else '-'}{name}" for name, value in zip("xyz", axis, strict=True) if value)


def _place(position: np.ndarray) -> str:
    return f"({', '.join(f'{value:.3f}' for value in position)}) m"
