"""The comparison of families as tables and pictures, drawn from what its cells left in the folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from demos.episode import Episode, find_episodes
from demos.ik import BimanualIK
from envs import check_registered
from envs.aloha import ARMS
from envs.bimanual import BimanualEnv
from envs.gl import mujoco
from envs.results import read_results, wilson_interval
from scripts.common import markdown

COLOURS = {"left": "#2b6cb0", "right": "#c2410c", "": "#888888"}
FAN_SIZE = (360, 480)  # pixels of the scene behind a fan
FAN_DRAWS = 24


def write(folder: Path, families: Sequence[str], data: Sequence[str]) -> str:
    """All tables (families.md, also returned) and pictures of the cells that are there."""
    cells = [json.loads(path.read_text()) for path in sorted((folder / "figures").glob("*.json"))]
    parts = []
    for name in data:
        found = {
            family: [cell for cell in cells if (cell["cell"]["family"], cell["cell"]["data"]) == (family, name)]
            for family in families
        }
        found = {family: some for family, some in found.items() if some}
        if found:
            rows = {family: row(folder, some) for family, some in found.items()}
            parts.append(f"### {name}\n\n{success_table(rows)}\n\n{chunk_table(rows)}\n\n{training_table(rows)}")
            plot(rows, folder / f"{name}.png")
            if any((folder / "figures").glob(f"{name}_*.npy")):
                fans(folder, name, list(found), folder / f"{name}_fans.png")
    costs = {
        name: json.loads((folder / "speed" / f"{name}.json").read_text())
        for name in families
        if (folder / "speed" / f"{name}.json").exists()
    }
    if costs:
        parts.append(f"### Cost\n\n{cost_table(costs)}")
    text = "\n\n".join(parts)
    (folder / "families.md").write_text(text + "\n")
    return text


def row(folder: Path, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all trainings of a family on one set of demonstrations came to."""
    told: dict[str, Any] = {"cells": list(cells)}
    for kind in ("ensemble", "halves", "scenes"):
        names = ["{data}_{family}_{seed}".format(**cell["cell"]) for cell in cells]
        paths = [folder / "rollouts" / f"{name}_{kind}.json" for name in names]
        results = [read_results(path) for path in paths if path.exists()]
        episodes = [episode for result in results for episode in result["episodes"]]
        if not episodes:
            continue
        strict = sum(episode["success"] for episode in episodes)
        ways: dict[str, int] = {}
        for episode in episodes:
            if episode["success"]:
                ways[episode["variant"]] = ways.get(episode["variant"], 0) + 1
        told[kind] = {
            "rate": strict / len(episodes),
            "interval": wilson_interval(strict, len(episodes)),
            "published": sum(episode["success_published"] for episode in episodes) / len(episodes),
            "each": [result["summary"]["success_rate"] for result in results],
            "jerk": float(np.mean([result["summary"]["mean_jerk"] for result in results])),
            "ways": {name: count / len(episodes) for name, count in ways.items()},
            "both": both_ways(results),
        }
    return told


def both_ways(results: Sequence[dict[str, Any]]) -> list[int]:
    """Of beginnings that were begun several times: in how many each way succeeded, and how many there are."""
    seen: dict[tuple[int, int], set[str]] = {}
    for i, result in enumerate(results):
        for episode in result["episodes"]:
            seen.setdefault((i, episode["seed"]), set()).update({episode["variant"]} if episode["success"] else set())
    return [sum(len(ways - {""}) > 1 for ways in seen.values()), len(seen)]


def success_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        ["family", "strict", "95 %", "each training", "published", "ways that succeed", "one beginning, both ways"]
    ]
    lines[0] += ["half chunks, strict", "95 %", "jerk, half chunks"]
    for family, told in rows.items():
        whole, half = told["ensemble"], told["halves"]
        ways = ", ".join(f"{name} {100 * share:.0f} %" for name, share in sorted(whole["ways"].items()) if name)
        both = "{} of {}".format(*told["scenes"]["both"]) if "scenes" in told and ways else "–"
        each = ", ".join(f"{100 * rate:.0f}" for rate in whole["each"])
        line = [
            family,
            f"{100 * whole['rate']:.0f} %",
            span(whole["interval"]),
            each,
            f"{100 * whole['published']:.0f} %",
        ]
        line += [ways or "–", both, f"{100 * half['rate']:.0f} %", span(half["interval"])]
        lines.append([*line, f"{whole['jerk']:.0f}, {half['jerk']:.0f}"])
    return markdown(lines)


def span(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}"


def mean(cells: Sequence[dict[str, Any]], *names: str) -> float | None:
    """Of a figure that all of the cells have; None where there are none, or one lacks it."""
    values = []
    for cell in cells:
        value: Any = cell
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        values.append(value)
    return float(np.mean(values)) if values and all(value is not None for value in values) else None


def word(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def chunk_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        ["family", "draws at the beginning", "to the nearest shown (cm)", "within, between ways (cm)", "later: nearest"]
    ]
    lines[0] += ["spread", "nats a number", "between two codes: worst (cm)"]
    for family, told in rows.items():
        cells = told["cells"]
        names = sorted({name for cell in cells for name in cell["begin"]["ways"]})
        ways = ", ".join(f"{name} {100 * (mean(cells, 'begin', 'ways', name) or 0):.0f} %" for name in names if name)
        between = mean([cell for cell in cells if cell["begin"]["between_cm"]], "begin", "between_cm")
        kind = cells[0]["likelihood"]["kind"]
        line = [family, ways or "–", word(mean(cells, "begin", "nearest_cm"))]
        line += [
            f"{word(mean(cells, 'begin', 'within_cm'))}, {word(between)}",
            word(mean(cells, "later", "nearest_cm")),
        ]
        nats = mean(cells, "likelihood", "nats")
        line += [word(mean(cells, "later", "spread_cm")), f"{word(nats, 2)} ({kind})"]
        lines.append([*line, word(mean([c for c in cells if c["between"]], "between", "worst_cm"))])
    cells = next(iter(rows.values()))["cells"]
    shown = [
        "demonstrations",
        "",
        word(mean(cells, "begin", "nearest_shown_cm")),
        "",
        word(mean(cells, "later", "nearest_shown_cm")),
    ]
    return markdown([*lines, [*shown, *[""] * 3]])


def training_table(rows: dict[str, dict[str, Any]]) -> str:
    """How calm each training was, and what it came to; a critic that can tell nothing apart is at 2 ln 2 = 1.386."""
    lines = [["family", "diverged", "largest gradient / median", "L1 of the answer, unseen demonstrations (z)"]]
    lines[0] += ["the critic's loss", "active units"]
    for family, told in rows.items():
        trainings = [cell["training"] for cell in told["cells"]]
        spikes = ", ".join(f"{each['gradient_spike']:.1f}" for each in trainings)
        line = [family, f"{sum(each['diverged'] for each in trainings)} of {len(trainings)}", spikes]
        last = [each["last"] for each in trainings]
        for name, digits in (("predict_l1", 3), ("critic", 3), ("diagnostics/active_units", 0)):
            values = [each[f"val/{name}"] for each in last if f"val/{name}" in each]
            line.append(", ".join(word(value, digits) for value in values) or "–")
        lines.append(line)
    return markdown(lines)


def cost_table(costs: dict[str, dict[str, float]]) -> str:
    lines = [
        [
            "family",
            "trained parameters",
            "MFLOP a sample",
            "training, ms a sample",
            "answer to 1 (ms)",
            "to 8 (ms)",
            "memory (MB)",
        ]
    ]
    for family, told in costs.items():
        line = [family, f"{told['trained_parameters'] / 1e6:.2f} M", f"{told['mflops_per_sample']:.0f}"]
        line += [word(told[name]) for name in ("training_ms_per_sample", "latency_ms_1", "latency_ms_8")]
        lines.append([*line, f"{told['peak_mb']:.0f}"])
    return markdown(lines)


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Success, ways, how near draws are to what was shown, and the way from one code to another."""
    figure = Figure(figsize=(11, 3.2 + 0.3 * len(rows)), layout="constrained")
    success, ways, near, between = figure.subplots(2, 2).flat
    names = list(rows)
    for i, told in enumerate(rows.values()):
        for kind, shift, marker in (("ensemble", -0.12, "o"), ("halves", 0.18, "s")):
            rate, (low, high) = told[kind]["rate"], told[kind]["interval"]
            error = [[100 * (rate - low)], [100 * (high - rate)]]
            colour = "tab:blue" if kind == "ensemble" else "tab:gray"
            success.errorbar(100 * rate, i + shift, xerr=error, fmt=marker, color=colour, capsize=3, markersize=5)
        each = told["ensemble"]["each"]
        success.plot([100 * rate for rate in each], [i - 0.32] * len(each), ".", color="tab:orange")
        start = 0.0
        for name, share in sorted(told["ensemble"]["ways"].items()):
            ways.barh(i, 100 * share, left=start, color=COLOURS.get(name, "tab:green"))
            start += 100 * share
        near.plot(
            [cell["begin"]["nearest_cm"] for cell in told["cells"]], [i] * len(told["cells"]), "o", color="tab:blue"
        )
        profiles = [cell["between"]["profile_cm"] for cell in told["cells"] if cell["between"]]
        if profiles:
            between.plot(np.linspace(0, 1, len(profiles[0])), np.mean(profiles, axis=0), label=names[i])
    shown = [cell["begin"]["nearest_shown_cm"] for told in rows.values() for cell in told["cells"]]
    near.axvline(float(np.mean(shown)), color="black", linestyle="--", linewidth=1)
    titles = {
        success: "strict success (%): ensembling (●), half chunks (■), each training (·)",
        ways: "successes (%) by the arm that gives: left (blue), right (red)",
        near: "from a draw at the beginning to the nearest chunk shown (cm); dashed: of unseen demonstrations",
        between: "the same on the way from a code of one way to one of the other",
    }
    for axes, title in titles.items():
        axes.set_title(title, fontsize=8)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        if axes is not between:
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.6)
    success.set_xlim(-2, 102)
    ways.set_xlim(0, 100)
    between.set_ylim(bottom=0)
    if between.lines:
        between.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def fans(folder: Path, data: str, families: Sequence[str], path: Path) -> None:
    """Both tools' ways in chunks that each family drew at one and the same beginning, in the picture of the scene.

    Of the training seed of which there are the most families.
    """

    def drawn(seed: str) -> dict[str, Path]:
        paths = {family: folder / "figures" / f"{data}_{family}_{seed}.npy" for family in families}
        return {family: path for family, path in paths.items() if path.exists()}

    seeds = sorted({path.stem.rsplit("_", 1)[1] for path in (folder / "figures").glob(f"{data}_*.npy")})
    places = max(map(drawn, seeds), key=len)
    episode = Episode(find_episodes(folder / "held_out" / data)[0])
    check_registered(episode.spec.env_id)
    env = gym.make(episode.spec.env_id, disable_env_checker=True, lazy=True).unwrapped
    assert isinstance(env, BimanualEnv)
    assert episode.env_state is not None
    env.reset(seed=0)
    env.set_state(episode.qpos[0], episode.env_state[0])
    renderer = mujoco.Renderer(env.model, *FAN_SIZE)
    renderer.update_scene(env.data, "angle")
    scene, ik = renderer.render(), BimanualIK()
    renderer.close()
    columns = min(4, len(places))
    figure = Figure(figsize=(3.2 * columns, 1.7 * -(-len(places) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(places) // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (family, place) in zip(grid.flat, places.items(), strict=False):
        axes.imshow(scene)
        axes.set_title(family, fontsize=10)
        for chunk in np.load(place)[:FAN_DRAWS]:
            draw(axes, env, ik, chunk)
        axes.set_xlim(0, FAN_SIZE[1])
        axes.set_ylim(0.72 * FAN_SIZE[0], 0.12 * FAN_SIZE[0])  # without the floor
    env.close()
    figure.savefig(path, dpi=110)


def draw(axes: Axes, env: BimanualEnv, ik: BimanualIK, chunk: np.ndarray) -> None:
    """The ways of both tools in a chunk (k, 14), as the camera "angle" sees them."""
    for i, arm in enumerate(ARMS):
        way = np.stack([ik.forward(arm, joints)[0] for joints in chunk[:, 7 * i : 7 * i + 6].astype(np.float64)])
        axes.plot(*projected(env, "angle", way).T, color=COLOURS[arm], alpha=0.55, linewidth=1.1)


def projected(env: BimanualEnv, camera: str, places: np.ndarray) -> np.ndarray:
    """Places (n, 3) m in the world → where a camera's picture of `FAN_SIZE` shows them, (n, 2) pixels x, y."""
    seen = env.data.camera(camera)
    x, y, z = ((places - seen.xpos) @ seen.xmat.reshape(3, 3)).T  # the camera looks along -z
    height, width = FAN_SIZE
    focal = height / 2 / np.tan(np.radians(env.model.camera(camera).fovy[0]) / 2)
    return np.stack([width / 2 + focal * x / -z, height / 2 + focal * y / z], axis=1)
