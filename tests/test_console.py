"""Laws of the installed commands: one for each script, and the same as the script."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_script_is_a_command():
    commands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    scripts = [path.stem for path in ROOT.glob("scripts/*.py") if "run(main, " in path.read_text()[-30:]]
    assert commands == {f"bimanual-{name}": "scripts.console:main" for name in scripts}


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
    assert run.stderr == "error: nowhere.json: no such file; scripts/rollout.py --json writes one\n"
