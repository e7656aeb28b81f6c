"""Laws of the scripts' wrapper: the user's mistakes are one line and exit code 2, ours keep their traceback."""

import subprocess
import sys

import pytest

SCRIPT = """
import errno, sys
from dataclasses import dataclass
from scripts.common import run

@dataclass
class Args:
    raises: str = "nothing"

def parse(words):
    if words == ["--bad"]:
        from act.errors import ConfigError
        raise ConfigError("unknown preset 'bad'; known presets: cpu, paper")
    return Args()

def main(args):
    if args.raises == "episode":
        from demos.spec import EpisodeError
        raise EpisodeError("data/episode_0.hdf5: no such file")
    if args.raises == "env":
        from envs import EnvError
        raise EnvError("unknown task 'x'; known tasks: y")
    if args.raises == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "runs/checkpoint")
    if args.raises == "interrupt":
        raise KeyboardInterrupt
    if args.raises == "bug":
        raise ValueError("a bug")
    if args.raises == "code":
        return 7
    if args.raises == "talk":
        for i in range(100_000):
            print("line", i)
    if args.raises == "modules":
        print(*({"mujoco", "torch", "envs", "demos"} & sys.modules.keys()))

run(main, parse if "--bad" in sys.argv else Args)
"""


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--raises", "episode"), 2, "error: data/episode_0.hdf5: no such file"),
        (("--raises", "env"), 2, "error: unknown task 'x'; known tasks: y"),
        (("--bad",), 2, "error: unknown preset 'bad'; known presets: cpu, paper"),
        (
            ("--raises", "full"),
            2,
            "error: runs/checkpoint: no space left on the device; make room and run the same command again",
        ),
        (("--raises", "interrupt"), 130, "interrupted"),
    ],
)
def test_one_line_for_the_user(words: tuple[str, ...], code: int, line: str):
    done = script(*words)
    assert (done.returncode, done.stderr, done.stdout) == (code, f"{line}\n", "")


def test_exit_codes():
    assert script().returncode == 0
    assert script("--raises", "code").returncode == 7
    unknown = script("--no-such-flag")
    assert unknown.returncode == 2
    assert "--no-such-flag" in unknown.stderr


def test_a_bug_keeps_its_traceback():
    done = script("--raises", "bug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a bug\n")


def test_nothing_heavy_is_loaded():
    assert script("--raises", "modules").stdout.strip() == ""


@pytest.mark.parametrize("words", ["", " --help"])
def test_nobody_listening_any_more_is_no_error(words):
    command = f'"$0" -c "$1" --raises talk{words} | head -1; echo ${{PIPESTATUS[0]}}'
    run = subprocess.run(["bash", "-c", command, sys.executable, SCRIPT], capture_output=True, text=True)
    assert run.stderr == ""
    *_, code = run.stdout.split()
    assert code in ("141", "0"), "0 where all had been written before"
    assert words or run.stdout == "line 0\n141\n"
