"""Weights & Biases for all scripts: one W&B run per run folder, continued whenever that folder is continued.

Nothing here ever asks on the terminal, and no entity is set: W&B's own environment variables (WANDB_PROJECT,
WANDB_ENTITY, WANDB_DIR, …) decide.
"""

import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

Mode = Literal["offline", "online", "disabled"]


class Tracker:
    """An open W&B run; use it as a context manager.

    Args:
        mode: "offline" writes to `folder`/wandb (or WANDB_DIR); "online" uploads, or turns to offline without a login
            or a connection; "disabled" does nothing.
        folder: the run folder. The run's id is kept in it, so that training, its resumption and its evaluation are
            one run.
        config: the settings to show.
        project: None leaves it to WANDB_PROJECT or W&B's default.
    """

    def __init__(self, mode: Mode, folder: Path, config: Mapping[str, Any], project: str | None = None):
        self._run, self._folder = None, folder
        if mode == "disabled":
            return
        import wandb  # takes a second, which nobody should wait for who does not use it

        if mode == "online" and not logged_in():
            print("W&B: no login found (run `wandb login`), so this run stays offline")
            mode = "offline"
        settings: dict[str, Any] = {
            "project": project,
            "name": folder.name,
            "id": self._id(),
            "resume": "allow",
            "dir": os.environ.get("WANDB_DIR", str(folder)),
            "config": dict(config),
            "settings": wandb.Settings(silent=True, console="off"),
        }
        try:
            self._run = wandb.init(mode=mode, **settings)
        except wandb.Error as error:
            print(f"W&B: cannot be reached ({error}), so this run stays offline")
            self._run = wandb.init(mode="offline", **settings)
        self._run.define_metric("*", step_metric="step")  # W&B's own counter would drop what a resumed run repeats
        offline = f"offline; upload it with: wandb sync {Path(self._run.dir).parent}"
        print(f"W&B: {offline if self._run.offline else self._run.url}")

    def log(self, record: Mapping[str, Any]) -> None:
        """One record of metrics; "step" is the training step that it belongs to."""
        if self._run is not None:
            self._run.log(dict(record))

    def log_videos(self, step: int, videos: Mapping[str, Path]) -> None:
        """Name → video file."""
        if self._run is not None:
            from wandb import Video

            media = {f"videos/{name}": Video(str(path), format="mp4") for name, path in videos.items()}
            self._run.log({"step": step, **media})

    def log_table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with equal keys: results by seed, say."""
        if self._run is not None and rows:
            from wandb import Table

            table = Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._run.log({"step": step, name: table})

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _id(self) -> str:
        path = self._folder / "wandb_id.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(secrets.token_hex(4))
        return path.read_text().strip()


def logged_in() -> bool:
    """Whether W&B finds credentials by itself: WANDB_API_KEY, or the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
