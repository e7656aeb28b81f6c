"""A person at a page: a real browser, driven only by what a person has: eyes, keys, buttons, a mouse."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from scripts.pages.scene_page import EYE, LOOK_AT
from scripts.pages.teleop import MOVE_KEYS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
# Without a GPU, WebGL runs on the CPU, on Mesa several times as fast as on Chromium's own SwiftShader; without a
# network, Chromium must not look for one.
FLAGS = [
    *("--no-sandbox", "--no-first-run", "--use-gl=angle", "--use-angle=gl-egl", "--ignore-gpu-blocklist"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
]
# Edges are not smoothed, which halves the work.
ROUGH = """
const get = HTMLCanvasElement.prototype.getContext
HTMLCanvasElement.prototype.getContext = function (kind, settings) {
    return get.call(this, kind, kind.startsWith("webgl") ? {...settings, antialias: false} : settings)
}
"""
FOV = np.radians(75)  # viser's, vertical
PATIENCE = 90.0  # s; drawn by an older CPU that also runs other tests, a page may not answer for more than 30


@contextmanager
def serving(script: str, *words: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """A script that serves a page, and the page's address."""
    command = [sys.executable, f"scripts/{script}", *map(str, words), "--port", "0", "--no-shadows"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if address := re.search(r"http://\S+", line):
                yield server, address[0]
                return
        raise AssertionError(f"no page: {''.join(lines)}")
    finally:
        server.terminate()
        server.wait(30)
        if server.stdout is not None:
            server.stdout.close()


@contextmanager
def browser() -> Iterator:
    """Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


class Person:
    """Opens a page in a tab of its own, reads it, and acts on it.

    Args:
        sees: what the page shows when it is ready.
    """

    def __init__(self, chromium, url: str, sees: str = "What is recorded", size: tuple[int, int] = (900, 650)):
        self.page = chromium.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.add_init_script(ROUGH)
        self.page.set_default_timeout(1000 * PATIENCE)
        self._acted = -1  # the step that the page showed when a key was last pressed
        self.page.goto(url)
        self.sees(sees)

    # ---------------------------------------------------------------------------------------------------------- eyes

    def text(self) -> str:
        return self.page.inner_text("body")

    def sees(self, words: str, seconds: float = PATIENCE) -> str:
        """Waits until the page says this (a regular expression). Returns the whole match."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if found := re.search(words, self.text()):
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"the page does not say {words!r} but:\n{self.text()}")

    def place(self, name: str) -> np.ndarray:
        """Where the page says that something is, (3,) m."""
        numbers = self.sees(rf"{name}: \(([^)]*)\)").split("(")[1].rstrip(")")
        return np.array([float(number) for number in numbers.split(",")])

    # --------------------------------------------------------------------------------------------------------- hands

    def press(self, *keys: str) -> None:
        step = re.search(r"step (\d+)", self.text()) if keys else None
        self._acted = int(step[1]) if step else self._acted
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, label: str) -> None:
        self.page.get_by_role("button", name=label, exact=True).click()
        self.page.evaluate("document.activeElement.blur()")  # as a click on the empty scene does

    def field(self, label: str):
        """The field beside a label; of a slider, where its number stands."""
        return (
            self.page.get_by_text(label, exact=True).locator("xpath=ancestor::*[.//input][1]").locator("input:visible")
        )

    def enter(self, label: str, value: float) -> None:
        """Types a number beside a slider."""
        self.field(label).last.fill(str(value))
        self.field(label).last.press("Enter")

    def choose(self, label: str, option: str) -> None:
        """Picks from a list."""
        self.field(label).first.click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def shift(self, arm: str, offset: np.ndarray, step: float) -> None:
        """Moves an arm's tool by about (3,) m with keys of `step` m."""
        for axis, way in enumerate(offset):
            times = round(abs(way) / step)
            key = next(key for key, move in MOVE_KEYS[arm].items() if move[axis] * way > 0) if times else ""
            self.press(*[key.lower()] * times)

    def go(self, arm: str, goal: np.ndarray, within: float = 0.005) -> None:
        """Leads an arm's tool by keys to within so many m of a place."""
        for _ in range(8):
            self.shift(arm, goal - self.still(arm), 0.005)
            if np.linalg.norm(goal - self.still(arm)) < within:
                return
        raise AssertionError(f"the {arm} tool does not get from {self.place(f'{arm} tool')} to {goal}")

    def still(self, arm: str) -> np.ndarray:
        """Where an arm's tool is once it stands still. What the page says may be old where keys are pressed faster than
        it is drawn, so the time that counts is that of the page: it waits only once it has passed since the last key.
        """
        words = rf"step (\d+) (?:.|\n)*{arm} tool: \(([^)]*)\)"
        before, since, waits = None, None, 0
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            text = self.text()
            step, numbers = re.search(words, text).groups()  # pyright: ignore[reportOptionalMemberAccess]
            now = np.array([float(number) for number in numbers.split(",")])
            waits = waits + 1 if "time waits" in text and int(step) != self._acted else 0
            if waits > 15:  # at least 0.75 s
                return now
            if since is None or int(step) >= since:
                if before is not None and np.linalg.norm(now - before) < 1e-3:
                    return now
                before, since = (None, int(step) + 25) if since is None else (now, int(step) + 10)
            time.sleep(0.05)
        raise AssertionError(f"the {arm} tool does not come to rest:\n{self.text()}")

    def grip(self, arm: str, closed: bool) -> None:
        if (float(self.field(f"{arm} gripper").last.input_value()) < 0.5) != closed:
            self.press({"left": "b", "right": "n"}[arm])
        time.sleep(0.5)

    def drag(self, start: np.ndarray, end: np.ndarray, steps: int = 10) -> None:
        """Drags with the mouse from one place in the scene, (3,) m, to another."""
        points = [self.pixel(point) for point in (start, end)]
        (x, y), end_at = points
        for _ in range(4):  # the gizmo notices the mouse when the next frame is drawn
            self.page.mouse.move(x + 1, y)
            self.page.mouse.move(x, y)
            time.sleep(0.4)
        self.page.mouse.down()
        for share in np.linspace(0, 1, steps):
            self.page.mouse.move(x + share * (end_at[0] - x), y + share * (end_at[1] - y))
            time.sleep(0.05)
        self.page.mouse.up()

    def pixel(self, point: np.ndarray) -> tuple[float, float]:
        """Where a point (3,) m appears on the page, as long as nobody has moved the view."""
        canvas = self.page.locator("canvas").first.bounding_box()
        eye = np.array(EYE)
        ahead = np.array(LOOK_AT) - eye
        ahead /= np.linalg.norm(ahead)
        right = np.cross(ahead, [0, 0, 1])
        right /= np.linalg.norm(right)
        x, y, z = (axis @ (point - eye) for axis in (right, np.cross(right, ahead), ahead))
        focal = canvas["height"] / 2 / np.tan(FOV / 2)
        return canvas["x"] + canvas["width"] / 2 + focal * x / z, canvas["y"] + canvas["height"] / 2 - focal * y / z


def hand_over_the_cube(person: Person, helped: bool = False) -> None:
    """Transfer cube, from wherever the cube lies on the table to strict success.

    Args:
        helped: the scripted expert is the left arm, and waits.
    """
    meeting = np.array([0.0, 0.5, 0.25])
    person.press("8")  # the right tool points down
    person.grip("right", closed=False)
    grasp = person.place("cube") * [1, 1, 0] + [0, 0, 0.035]
    person.go("right", grasp + [0, 0, 0.10], within=0.01)
    if not helped:
        person.press("3")  # the left tool turns sideways
        person.grip("left", closed=False)
        person.go("left", meeting + [-0.15, 0, -0.015], within=0.02)
    person.go("right", grasp)
    person.grip("right", closed=True)
    person.sees("✔ right touches")
    person.go("right", grasp + [0, 0, 0.10], within=0.03)
    person.go("right", meeting)
    if helped:
        person.press("o")  # go on
        person.sees("✔ left touches")
        time.sleep(0.4)
        person.press("o")  # wait
    else:
        person.go("left", meeting + [0, 0, -0.015])
        person.grip("left", closed=True)
        person.sees("✔ left touches")
    person.grip("right", closed=False)
    person.go("right", meeting + [0.1, 0, 0.05], within=0.02)
    person.sees("strict success: reached")
