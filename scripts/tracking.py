"""Weights & Biases for all scripts: one W&B run per run folder, continued whenever that folder is continued.

Nothing here ever asks on the terminal or ends the work. W&B's own environment variables decide where no flag does:
WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_RUN_ID, WANDB_RESUME, WANDB_DIR, …
"""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.wandb_run import Mode, finish_run, open_run, quiet_environment, run_path, shorten

ID = "wandb_id.txt"


class Tracker:
    """An open W&B run; use it as a context manager.

    Args:
        mode: "offline" writes to `folder`/wandb (or WANDB_DIR); "online" uploads, or turns to offline without a login
            or a connection; "shared" does too, beside other processes; "disabled" does nothing. See
            `scripts.wandb_run.mode_from`.
        folder: the run folder. The run's id is kept in it, so that training, its resumption and its evaluation are
            one run, wherever the folder is moved.
        config: the settings to show.
        project: None leaves it to WANDB_PROJECT or W&B's default.
    """

    def __init__(self, mode: Mode, folder: Path, config: Mapping[str, Any], project: str | None = None):
        self._run, self._stack = None, ExitStack()
        if mode == "disabled":
            return
        self._stack.enter_context(quiet_environment(mode, folder))
        # What the environment tells is left to wandb: arguments of wandb.init would override it.
        options = {"project": project, "config": dict(config), "id": _run_id(folder)}
        options |= {} if os.environ.get("WANDB_NAME") else {"name": folder.resolve().name}
        options |= {} if os.environ.get("WANDB_RESUME") else {"resume": "allow"}
        self._run = open_run(mode, folder, **options)
        if self._run is None:
            self._stack.close()
            return
        offline = f"offline; upload it with: wandb sync {run_path(self._run)}"
        print(f"W&B: {offline if self._run.offline else self._run.url}")

    def log(self, record: Mapping[str, Any]) -> None:
        """One record of metrics; "step" is the training step that it belongs to."""
        self._send(lambda: dict(record))

    def log_videos(self, step: int, videos: Mapping[str, Path]) -> None:
        """Name → video file."""

        def media() -> dict[str, Any]:
            from wandb import Video

            return {f"videos/{name}": Video(str(path), format="mp4") for name, path in videos.items()}

        self._send(lambda: {"step": step, **media()})

    def log_table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with equal keys: results by seed, say."""

        def table() -> Any:
            from wandb import Table

            return Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])

        if rows:
            self._send(lambda: {"step": step, name: table()})

    def _send(self, make: Callable[[], dict[str, Any]]) -> None:
        if self._run is None:
            return
        try:
            self._run.log(make())
        except Exception as error:  # its service was killed, say, or its disk is full
            print(f"W&B: logging ends here ({shorten(error)}); the work goes on")
            self._close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            finish_run(run)
        self._stack.close()


def _run_id(folder: Path) -> str:
    """The W&B id of a run folder: WANDB_RUN_ID's, or the one kept in it, or a new one, kept if that is possible."""
    path, given = folder / ID, os.environ.get("WANDB_RUN_ID", "")
    try:
        if path.exists() and (kept := path.read_text().strip()):
            return given or kept
        new = given or secrets.token_hex(4)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new)
    except (OSError, UnicodeDecodeError) as error:
        new = given or secrets.token_hex(4)
        print(f"W&B: {path} cannot be used ({shorten(error)}), so a continued run will be another one there")
    return new
