"""What a message must name: the file, the flag, the value. How it says so is free."""

import re
from collections.abc import Callable

import pytest

from act.errors import ConfigError
from demos.spec import EpisodeError
from envs import EnvError

FOR_THE_USER: tuple[type[Exception], ...] = (ConfigError, EpisodeError, EnvError)


def says(message: object, *parts: object) -> bool:
    """That a message has all of these parts, as whole words and in any order. Raises AssertionError if not."""
    __tracebackhide__ = True
    missing = [str(part) for part in parts if not has(message, part)]
    assert not missing, f"{missing} is not in: {message}"
    return True


def has(message: object, *parts: object) -> bool:
    """Whether it does."""
    return all(re.search(_as_words(str(part)), str(message), re.IGNORECASE) for part in parts)


def refusal(act: Callable[[], object], *kinds: type[Exception]) -> str:
    """The one line with which something is refused, as a mistake that the user can mend, or as one of these kinds."""
    with pytest.raises(kinds or FOR_THE_USER) as caught:
        act()
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


def _as_words(part: str) -> str:
    before = r"(?<!\w)" if part[:1].isalnum() else ""
    after = r"(?!\w)" if part[-1:].isalnum() else ""
    return before + re.escape(part) + after
