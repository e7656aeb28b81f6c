"""Laws of renamed flags: the old name does what the new one does, says so in one line, and is nobody else's name."""

import importlib
import io
import re
from contextlib import redirect_stdout, suppress
from functools import cache

import pytest
import tyro

from act.policies import GENERATORS
from act.stored_names import RENAMED_SETTINGS, current_names
from scripts.deprecated import DEPRECATED_FLAGS, upgrade_flags

ROWS = [(script, old, new) for script, table in DEPRECATED_FLAGS.items() for old, new in table.items()]


@cache
def flags_of(script: str) -> frozenset[str]:
    """All flags of a script; of scripts/train.py those of every policy."""
    module, found = importlib.import_module(f"scripts.{script}"), set[str]()
    calls = [["--policy", name, "--help"] for name in GENERATORS] if script == "train" else [["--help"]]
    for words in calls:
        shown = io.StringIO()
        with redirect_stdout(shown), suppress(SystemExit):
            module.parse(words) if hasattr(module, "parse") else tyro.cli(module.Args, args=words)
        lines = re.findall(r"^[│ ]*(-.*)$", shown.getvalue(), re.M)  # those that begin with a flag
        found |= set(re.findall(r"(?<![\w-])--[\w-]+", "\n".join(lines)))
    return frozenset(found)


@pytest.mark.parametrize(("script", "old", "new"), ROWS)
def test_each_old_flag_becomes_the_new_one(script, old, new):
    notes: list[str] = []
    name, underscored = old.removeprefix("--"), "--" + old.removeprefix("--").replace("-", "_")
    given = ["--out", "x", old, "7", f"{old}=-1", f"{underscored}=a=b", f"--no-{name}", f"{old}-more", "--", old]
    wanted = [*("--out", "x", new, "7", f"{new}=-1", f"{new}=a=b", f"--no-{new[2:]}"), f"{old}-more", "--", old]
    assert upgrade_flags(script, given, notes.append) == wanted
    assert len(notes) == 4
    assert all(old.replace("-", "") in note.replace("-", "").replace("_", "") for note in notes[:2])
    assert all(new in note for note in notes[:3])


@pytest.mark.parametrize(("script", "old", "new"), ROWS)
def test_the_new_flag_is_one_of_the_script_and_the_old_one_is_not(script, old, new):
    assert new in flags_of(script)
    assert old not in flags_of(script)


def test_the_switch_of_the_vae_became_a_policy():
    notes: list[str] = []
    words = ["--out", "x", "--use_vae", "--no-use-vae", "--", "--use-vae"]
    wanted = ["--out", "x", "--policy", "act", "--policy", "regression", "--", "--use-vae"]
    assert upgrade_flags("train", words, notes.append) == wanted
    assert len(notes) == 2
    assert current_names({"use_vae": False, "kl_weight": 1.0, "d_model": 8}) == {
        "policy": "regression",
        "d_model": 8,
    }
    assert current_names({"use_vae": True, "kl_weight": 1.0}) == {"kl_weight": 1.0}


def test_other_words_stay_as_they_are():
    words = ["--episodes", "4", "--instruction", "the way"]
    assert upgrade_flags("rollout", words) == words
    assert upgrade_flags("no such script", ["--way", "x"]) == ["--way", "x"]


def test_stored_settings_get_their_new_names_and_keep_their_values():
    old = {name: i for i, name in enumerate(RENAMED_SETTINGS)} | {"steps": 3}
    assert current_names(old) == {new: i for i, new in enumerate(RENAMED_SETTINGS.values())} | {"steps": 3}
    assert current_names(current_names(old)) == current_names(old)
    assert not RENAMED_SETTINGS.keys() & set(RENAMED_SETTINGS.values())
