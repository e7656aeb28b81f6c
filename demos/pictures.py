"""Pictures of datasets: contact sheets of their frames, plots of their joints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demos.episode import Episode

INK, PALE = (40, 44, 52), (130, 136, 148)


def contact_sheet(episodes: Sequence[Episode], camera: str, path: Path, moments: int = 8, width: int = 200) -> None:
    """Writes a PNG of what a camera saw: a row an episode, `moments` frames from its start to its end.

    Args:
        episodes: at least one, all with this camera.
        camera: its name.
        path: the PNG to write.
        moments: frames per episode, at equal distances in time.
        width: of a frame in the sheet, pixels.
    """
    rows, columns = episodes[0].spec.cameras[camera]
    height = round(width * rows / columns)
    margin, head, gap = 120, 34, 6
    size = (margin + moments * (width + gap), head + len(episodes) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column in range(moments):
        centre = margin + column * (width + gap) + width / 2
        draw.text((centre, head / 2), f"{column / (moments - 1):.0%}", PALE, font, anchor="mm")
    for row, episode in enumerate(episodes):
        top = head + row * (height + gap)
        draw.text((14, top + height / 2 - 10), episode.path.stem.replace("_", " "), INK, font, anchor="lm")
        draw.text((14, top + height / 2 + 10), f"{episode.length} steps", PALE, font, anchor="lm")
        with episode:
            for column, t in enumerate(np.linspace(0, episode.length - 1, moments).round().astype(int)):
                frame = Image.fromarray(episode.frame(camera, t)).resize((width, height), Image.Resampling.LANCZOS)
                sheet.paste(frame, (margin + column * (width + gap), top))
    sheet.save(path)


def joint_plots(episodes: Sequence[Episode], path: Path) -> None:
    """Writes a PNG with a panel a joint: what was reached (qpos) over what was commanded (action), all episodes."""
    spec = episodes[0].spec
    joints, width = len(spec.joint_names), spec.robot.block_width
    rows = joints // width if width else -(-joints // 7)  # arms that are alike, one above the other
    columns = -(-joints // rows)
    from matplotlib.figure import Figure  # here, where the scripts have told it to be quiet

    figure = Figure(figsize=(2.3 * columns, 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for panel in panels[joints:]:
        panel.set_visible(False)
    alpha = max(0.12, len(episodes) ** -0.5)
    for joint, (name, panel) in enumerate(zip(spec.joint_names, panels, strict=False)):
        unit = spec.robot.unit(joint)
        for episode in episodes:
            seconds = np.arange(episode.length) / spec.fps
            if spec.commands_joints:
                panel.plot(seconds, episode.action[:, joint], color="#e8833a", alpha=alpha, linewidth=2.2)
            panel.plot(seconds, episode.qpos[:, joint], color="#2b6cb0", alpha=alpha, linewidth=1.0)
        low, high = panel.get_ylim()
        slack = max(0.0, 0.2 - (high - low)) / 2  # a joint at rest is a line, not a picture of its numerical noise
        panel.set_ylim(low - slack, high + slack)
        panel.set_title(f"{name.replace('_', ' ')}{f' [{unit}]' if unit else ''}", fontsize=10)
        panel.tick_params(labelsize=8, colors="gray")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    figure.supxlabel("seconds", fontsize=10, color="gray")
    lines = "commanded (orange) and reached (blue)" if spec.commands_joints else "reached"
    figure.suptitle(f"{lines}, {len(episodes)} episodes", fontsize=12)
    figure.savefig(path, dpi=120)
