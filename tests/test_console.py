"""Laws of the installed commands: one for each script, and the same as the script."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from messages import says

from scripts.console import REMOVED, RENAMED, main

ROOT = Path(__file__).parents[1]


def test_every_script_is_a_command():
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    scripts = [path.stem for path in ROOT.glob("scripts/*.py") if "run(main, " in path.read_text()[-30:]]
    names = {f"bimanual-{name.replace('_', '-')}" for name in scripts}
    assert {new for old, new in RENAMED.items()} <= names
    assert commands == dict.fromkeys(names | RENAMED.keys() | REMOVED.keys(), "scripts.console:main")


def test_a_wheel_has_every_package_and_every_asset():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = [path.parent.relative_to(ROOT) for path in ROOT.glob("[a-z]*/**/__init__.py") if "build" not in path.parts]
    assert sorted(settings["packages"]) == sorted(".".join(path.parts) for path in found)
    packed = {path for pattern in settings["package-data"]["envs"] for path in ROOT.glob(f"envs/{pattern}")}
    assert packed == {path for path in ROOT.glob("envs/**/*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_a_command_is_its_script():
    command = Path(sys.executable).with_name("bimanual-compare")
    run = subprocess.run([command, "nowhere.json"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert says(run.stderr, "error: nowhere.json", "no such file", "--json")


def test_an_old_command_runs_its_script_or_names_the_new_command(monkeypatch, capsys):
    started = []
    monkeypatch.setattr("runpy.run_module", lambda name, run_name: started.append(name))
    monkeypatch.setitem(REMOVED, "bimanual-gone", "bimanual-new")
    for command in ("bimanual-inspect-data", "bimanual-inspect_data", "bimanual-ways"):
        monkeypatch.setattr("sys.argv", [f"/bin/{command}"])
        main()
    assert started == ["scripts.inspect_data", "scripts.inspect_data", "scripts.latent_plot"]
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        "bimanual-inspect_data",
        "bimanual-ways",
    ]
    monkeypatch.setattr("sys.argv", ["/bin/bimanual-gone"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "use bimanual-new" in capsys.readouterr().err
