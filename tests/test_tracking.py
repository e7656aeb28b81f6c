"""Laws of W&B logging: its environment variables count, it asks nothing, and it neither stops nor delays the work."""

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from messages import refusal, says

from scripts import quickstart, rollout, train, wandb_run
from scripts.tracking import Tracker
from scripts.wandb_run import mode_from

KEY = "a" * 40


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Whoever runs this has neither a login nor settings of W&B, which wandb reads once in a process."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A server that accepts no login."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(401)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def log_one(folder: Path, mode: wandb_run.Mode = "online") -> None:
    """A run of one record."""
    with Tracker(mode, folder, {"lr": 0.1}) as tracker:
        tracker.log({"step": 1, "loss": 0.5})


def run_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("*-run-*"))


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_MODE": ""}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_MODE": "shared"}, "shared"),
        ({"WANDB_MODE": "Disabled"}, "disabled"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "disabled"),
        ({"WANDB_DISABLED": "false", "WANDB_MODE": "online"}, "online"),
    ],
)
def test_the_environment_decides_where_no_flag_does(monkeypatch, environment, mode):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert mode_from(None, "offline") == mode
    assert mode_from("offline", "disabled") == "offline"
    assert mode_from("online", "disabled") == "online"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (train, ["--data", "d", "--out", "o"]),
        (rollout, ["--checkpoint", "c"]),
        (quickstart, ["--out", "o"]),
    ],
)
def test_an_unknown_mode_is_refused_before_the_work_begins(monkeypatch, tmp_path, script, words):
    import tyro

    monkeypatch.setenv("WANDB_MODE", "foo")
    monkeypatch.chdir(tmp_path)
    args = train.parse(words) if script is train else tyro.cli(script.Args, args=words)
    modes = ("online", "offline", "disabled", "shared", "dryrun", "run")
    assert says(refusal(lambda: script.main(args)), "WANDB_MODE", "foo", *modes)
    assert list(tmp_path.iterdir()) == []


def test_a_flag_counts_where_the_mode_in_the_environment_is_unknown(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_MODE", "foo")
    log_one(tmp_path, "offline")
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in capsys.readouterr().out
    assert os.environ["WANDB_MODE"] == "foo"


def test_without_a_login_a_run_is_offline(tmp_path, capsys):
    (tmp_path / "netrc").write_text("machine elsewhere login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    log_one(tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert says(first, "W&B", "no login", "wandb login", "offline")
    assert says(second, "W&B", f"wandb sync {run_folders(tmp_path)[0]}")
    stored = next(run_folders(tmp_path)[0].glob("*.wandb"))
    for _ in range(300):  # W&B's own process writes it
        if stored.stat().st_size > 100:
            break
        time.sleep(0.1)
    assert stored.stat().st_size > 100


def test_a_login_is_found_where_wandb_finds_it(monkeypatch, tmp_path, server, capsys):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:{server.server_port} login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    log_one(tmp_path)
    assert says(capsys.readouterr().out, "login is not accepted")  # so it was found


def test_a_rejected_key_leaves_an_offline_run_with_the_same_id(monkeypatch, tmp_path, server, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    log_one(tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert says(first, "W&B", "login is not accepted", "offline")
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in second
    identity = (tmp_path / "wandb_id.txt").read_text()
    offline = [each for each in run_folders(tmp_path) if each.name.startswith("offline")]
    assert [each.name.rpartition("-")[2] for each in offline] == [identity]


def test_a_server_that_never_answers_delays_a_run_by_no_more_than_its_share(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(wandb_run, "INIT_SECONDS", 1)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    import wandb

    waits, init = [], wandb.init
    monkeypatch.setattr(wandb, "init", lambda **given: waits.append(given["settings"].init_timeout) or init(**given))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        log_one(tmp_path)
    assert waits == [1, 1], "online, then offline"
    assert says(capsys.readouterr().out, "server cannot be reached", "offline", f"wandb sync {tmp_path}/wandb/offline")


@pytest.mark.parametrize("failure", [ImportError("half\nan installation"), RuntimeError("half\nan installation")])
def test_without_a_whole_wandb_nothing_is_logged(monkeypatch, tmp_path, capsys, failure):
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "wandb":
                raise failure

    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    log_one(tmp_path)
    [line] = capsys.readouterr().out.splitlines()
    assert says(line, "W&B", "half an installation", "not logged", "pip install wandb")


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    log_one(tmp_path)
    [line] = capsys.readouterr().out.splitlines()
    assert says(line, "W&B", tmp_path / "file", "not a directory", "not logged", "WANDB_DIR")


def test_a_full_disk_is_one_line(monkeypatch, tmp_path, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    log_one(tmp_path, "offline")
    [line] = capsys.readouterr().out.splitlines()
    assert says(line, "W&B", tmp_path, "no space left on device", "not logged", "WANDB_DIR")


def test_what_fails_while_a_run_is_open_ends_logging_alone(monkeypatch, tmp_path, capsys):
    class Broken:
        offline, dir = True, str(tmp_path / "files")

        def log(self, record: dict) -> None:
            raise BrokenPipeError(errno.EPIPE, "its service is gone")

        def finish(self) -> None:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("scripts.tracking.open_run", lambda *_, **__: Broken())
    with Tracker("offline", tmp_path, {}) as tracker:
        tracker.log({"step": 1})
        tracker.log({"step": 2})
    _, lost, ended = capsys.readouterr().out.splitlines()
    assert says(lost, "W&B", "its service is gone")
    assert says(ended, "W&B", "full", f"wandb sync {tmp_path}")


def test_uploads_end_after_a_while(monkeypatch, tmp_path, capsys):
    waits_no_more, ended = threading.Event(), []

    class Slow:
        dir = str(tmp_path / "files")

        def finish(self) -> None:
            ended.append(waits_no_more.wait(60))

    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", -2.9)
    wandb_run.finish_run(Slow())
    assert ended == [], "it was waited for to the end"
    waits_no_more.set()
    assert says(capsys.readouterr().out, "W&B", "in time", f"wandb sync {tmp_path}")


@pytest.mark.parametrize("home", [None, "/proc"])
def test_without_a_home_caches_go_beside_the_run(monkeypatch, tmp_path, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    with wandb_run.quiet_environment("offline", tmp_path):
        assert os.environ["WANDB_CACHE_DIR"] == os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb/home")
    assert "WANDB_CACHE_DIR" not in os.environ


def test_the_environment_names_a_run(monkeypatch, tmp_path):
    told = {}
    monkeypatch.setattr("scripts.tracking.open_run", lambda mode, folder, **options: told.update(options))
    Tracker("offline", tmp_path / "run", {})
    kept = (tmp_path / "run/wandb_id.txt").read_text()
    assert told == {"project": None, "config": {}, "id": kept, "name": "run", "resume": "allow"}
    told.clear()
    for name in ("NAME", "RESUME", "RUN_ID"):
        monkeypatch.setenv(f"WANDB_{name}", "must")
    Tracker("offline", tmp_path / "run", {})
    assert told == {"project": None, "config": {}, "id": "must"}
    assert (tmp_path / "run/wandb_id.txt").read_text() == kept
    Tracker("offline", tmp_path / "new", {})
    assert (tmp_path / "new/wandb_id.txt").read_text() == "must"
