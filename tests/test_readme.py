"""Laws of the front page and the pages behind it: short, links resolve, commands parse, imports exist."""

import ast
import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
import tyro

from demos.errors import EpisodeError

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / ".github").glob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python|torchrun\b.*?) scripts/([\w/]+)\.py\b *([^#|`\n]*)")
MENTION = re.compile(r"^(?:python scripts/)?(\w+)\.py (.*)$")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OTHERS = {
    "--use-gl",
    "--use-angle",
    "--ignore-gpu-blocklist",
    "--nproc-per-node",
    "--nnodes",
    "--rdzv-backend",
    "--rdzv-endpoint",
}
"""Flags of Chromium and torchrun."""


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def anchors(page: Path) -> set[str]:
    """As code hosting sites name headings."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def parse(script: str, words: list[str]) -> None:
    """Parses a script's command line without running it."""
    if "/" in script:  # it may run in another interpreter
        text = (ROOT / "scripts" / f"{script}.py").read_text()
        assert all(f'"{flag}"' in text for flag in FLAG.findall(" ".join(words)))
        return
    module = importlib.import_module(f"scripts.{script}")
    if hasattr(module, "parse"):
        module.parse(words)
    else:
        tyro.cli(module.Args, args=words)


def commands() -> list[tuple[str, str, str]]:
    """Page, script, and the words behind it, of every command in a code block or in backticks."""
    found = []
    for page in PAGES:
        for text in [*blocks(page, "bash"), *CODE.findall(prose(page))]:
            found += [(page.name, script, words.strip()) for script, words in COMMAND.findall(text)]
    return sorted(set(found))


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """Script → the flags in its --help, and those of every policy."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "scripts").glob("*.py")):
        if "\nif __name__" in path.read_text():
            found[path.stem] = set(FLAG.findall(path.read_text().split('"""')[1])) | help_flags(path.stem)
    from act.policies import GENERATORS

    for name in GENERATORS:
        found["train"] |= help_flags("train", "--policy", name)
    return found


def help_flags(script: str, *words: str) -> set[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        parse(script, [*words, "--help"])
    return set(FLAG.findall(printed.getvalue()))


def test_the_front_page_is_short():
    text = README.read_text()
    assert len(text.split()) <= 1200
    assert len(text.splitlines()) <= 150


def test_the_results_table_has_at_most_eight_rows():
    section = README.read_text().split("\n## Results\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert 3 <= len(rows) <= 2 + 8
    assert "95 % interval" in rows[0]


def test_the_command_for_the_tests_stands_where_ci_takes_it_from():
    lines = README.read_text().splitlines()
    command = lines[lines.index("# Tests") + 1]
    assert command.endswith("pytest")
    assert "[test]" in command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_resolve(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_linked_from_the_front_page():
    linked = {Path(target.partition("#")[0]).name for target in LINK.findall(prose(README))}
    assert {page.name for page in PAGES[1:]} <= linked


def test_every_picture_is_shown():
    shown = {Path(target).name for page in PAGES for target in LINK.findall(prose(page))}
    pictures = {path.name for path in (ROOT / ".github").iterdir() if path.suffix in (".png", ".jpg", ".webp", ".gif")}
    assert pictures <= shown
    assert all((ROOT / ".github" / name).stat().st_size < 3e6 for name in pictures)


@pytest.mark.parametrize(("page", "script", "words"), commands())
def test_commands_parse(page, script, words, capsys):
    arguments = shlex.split(words)
    if "--resume" in arguments and "--data" not in arguments:  # the run folder knows them
        arguments += ["--data", "data"]
    try:
        parse(script, arguments)
    except EpisodeError as error:  # train.py reads a --robot at once
        if "no such" not in str(error):
            raise
    except SystemExit:
        pytest.fail(f"{page}: {script}.py {words}\n{capsys.readouterr().err}")


def test_flags_exist(flags):
    everything = set().union(*flags.values()) | OTHERS
    for page in PAGES:
        for code in CODE.findall(prose(page)):
            named = set(FLAG.findall(code))
            mention = MENTION.match(code)
            known = flags.get(mention[1], everything) if mention else everything
            assert named <= known, f"{page.name}: {code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_imports_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), page.name, "exec"), {})
