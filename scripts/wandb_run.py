"""A W&B run that neither stops nor delays the work it describes: opened within seconds, or offline, or not at all."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from act.errors import ConfigError

INIT_SECONDS = 6
"""How long wandb.init may wait for the server; it takes some 3 s more to give up. WANDB_INIT_TIMEOUT overrides it."""
FINISH_SECONDS = 10
"""How long uploads may go on at the end; WANDB_FINISH_TIMEOUT overrides it. What is missing stays on the disk."""

LEAST_SPACE = 1 << 20
"""Bytes that must be free: wandb's log and the record of a short run."""

Mode = Literal["offline", "online", "shared", "disabled"]
MODES: dict[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "shared": "shared",
    "dryrun": "offline",
    "run": "online",
}
"""What WANDB_MODE may be, and the mode that it means."""


def mode_from(flag: Mode | None, default: Mode) -> Mode:
    """The mode of a run: the flag's, or where none was given that of WANDB_DISABLED or WANDB_MODE, or `default`.

    Raises:
        ConfigError: WANDB_MODE decides, and W&B has no such mode.
    """
    if flag is not None:
        return flag
    if os.environ.get("WANDB_DISABLED", "").strip().lower() not in ("", "0", "false", "no", "off", "n", "f"):
        return "disabled"
    given = os.environ.get("WANDB_MODE", "").strip()
    if given and given.lower() not in MODES:
        raise ConfigError(f"WANDB_MODE is {given!r}; choose one of {', '.join(MODES)}, or unset it")
    return MODES[given.lower()] if given else default


def open_run(mode: Mode, directory: Path, **options: Any) -> Any:
    """A W&B run in this mode; offline where online fails; None, with a line that says why, where that fails too.

    Args:
        mode: "online", "shared" or "offline".
        directory: where wandb/ is made, unless WANDB_DIR says otherwise.
        options: of `wandb.init`.
    """
    try:
        import wandb  # takes a second, which nobody should wait for who does not use it
    except Exception as error:  # whatever half an installation raises
        print(f"W&B: wandb cannot be imported ({shorten(error)}), so this run is not logged; pip install wandb")
        return None
    if reason := _not_writable(_root(directory)):
        print(f"W&B: {_root(directory)} cannot be written ({reason}), so this run is not logged; set WANDB_DIR")
        return None
    if mode != "offline":
        try:
            return _init(wandb, mode, directory, options)
        except Exception as error:  # wandb raises its own errors, and those of its libraries
            print(f"W&B: {_why(error)}, so this run stays offline")
        try:
            wandb.teardown()  # else wandb takes the offline run for a second one with the same id, and refuses it
        except Exception as error:
            print(f"W&B: {shorten(error)}, so this run is not logged")
            return None
    try:
        return _init(wandb, "offline", directory, options)
    except Exception as error:
        print(f"W&B: no run can begin ({shorten(error)}), so this run is not logged")
        return None


def finish_run(run: Any) -> None:
    """Ends a run. What could not be uploaded within `FINISH_SECONDS` stays on the disk, and a line names it."""
    failed: list[Exception] = []

    def finish() -> None:
        try:
            run.finish()
        except Exception as error:
            failed.append(error)

    # Versions of wandb without the setting finish_timeout wait for ever.
    thread = Thread(target=finish, daemon=True)
    thread.start()
    thread.join(float(os.environ.get("WANDB_FINISH_TIMEOUT") or FINISH_SECONDS) + 3)
    sync = f"wandb sync {run_path(run)}"
    if thread.is_alive() or getattr(run, "_finish_timed_out", False):
        print(f"W&B: the server did not take everything in time; upload the rest with: {sync}")
    elif failed:
        print(f"W&B: the run did not end well ({shorten(failed[0])}); what is whole uploads with: {sync}")
        with suppress(Exception):  # else wandb prints a traceback as the process ends
            sys.modules["wandb"].teardown()


def run_path(run: Any) -> Path:
    """The folder of an open run, as `wandb sync` takes it."""
    return Path(run.dir).resolve().parent


def _init(wandb: Any, mode: Mode, directory: Path, options: Mapping[str, Any]) -> Any:
    known = {"silent": True, "console": os.environ.get("WANDB_CONSOLE", "off")}
    bounds = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS}
    fields = getattr(wandb.Settings, "model_fields", {})
    known |= {
        name: value for name, value in bounds.items() if name in fields and f"WANDB_{name.upper()}" not in os.environ
    }
    with _without_terminal():
        wandb.setup(settings=wandb.Settings(silent=True, mode=mode))
        run = wandb.init(mode=mode, dir=str(_root(directory)), settings=wandb.Settings(**known), **options)
    run.define_metric("*", step_metric="step")  # W&B's own counter would drop what a resumed run repeats
    for handler in logging.getLogger("wandb").handlers:
        handler.handleError = lambda record: None  # a disk that gets full would print a traceback for every line
    return run


def _not_writable(directory: Path) -> str:
    """Why W&B could not keep a run in this directory; empty where it could."""
    try:
        (directory / "wandb").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory / "wandb") as file:
            file.write(bytes(LEAST_SPACE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _root(directory: Path) -> Path:
    return Path(os.environ.get("WANDB_DIR") or directory)


@contextmanager
def quiet_environment(mode: Mode, directory: Path) -> Iterator[None]:
    """W&B's environment variables for as long as a run is open.

    No reports about W&B itself, for which a process would wait at its end when there is no network. Where HOME cannot
    be written, W&B's service would print its log: caches and settings then go beside the run.
    """
    changes = {"WANDB_MODE": mode}  # or wandb stumbles over one that it does not know, though a flag decides
    changes |= {} if "WANDB_ERROR_REPORTING" in os.environ else {"WANDB_ERROR_REPORTING": "false"}
    if not _has_home():
        names = [f"WANDB_{kind}_DIR" for kind in ("CACHE", "CONFIG", "DATA")]
        home = _root(directory) / "wandb"
        changes |= {name: str(home / "home") for name in names if name not in os.environ}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _has_home() -> bool:
    """Whether wandb can keep its caches where it does by default."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ["HOME"], ".cache"), "wandb", "logs")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return True
    except (KeyError, OSError):
        return False


@contextmanager
def _without_terminal() -> Iterator[None]:
    """Standard input is empty, so that wandb cannot ask for a key."""
    before = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


def _why(error: Exception) -> str:
    """Why a run cannot be online."""
    text = shorten(error)
    if "api key configured" in text.lower() or "api_key not configured" in text.lower():
        return "no login found (run `wandb login`)"
    if type(error).__name__ == "AuthenticationError" or any(code in text for code in (" 401", " 403")):
        return f"the login is not accepted ({text})"
    return f"the server cannot be reached ({text})"


def shorten(error: BaseException) -> str:
    """An error as one line of at most 160 letters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:159]}…"
