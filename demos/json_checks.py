"""Checks of values that were read from JSON: each error names the value, what was given and what it must be."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from demos.errors import EpisodeError

MAX_LENGTH = 1000  # of a list


def wrong(what: str, given: Any, wanted: str) -> EpisodeError:
    given = given if isinstance(given, str) else repr(given)
    return EpisodeError(f"robot: {what} is {given if len(given) <= 100 else f'{given[:97]} …'}; it must be {wanted}")


def as_mapping(where: str, values: Any, known: set[str], needed: set[str]) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise wrong(where, values, "an object with named values")
    if missing := sorted(needed - values.keys()):
        raise EpisodeError(f"{where} lacks {missing[0]}; it must have {', '.join(sorted(needed))}")
    if foreign := sorted(map(str, values.keys() - known)):
        raise EpisodeError(f"{where} has {foreign[0]}, which is unknown; known are {', '.join(sorted(known))}")
    return values


def as_list(where: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or len(value) > MAX_LENGTH:
        raise wrong(where, value, "a list")
    return value


def as_text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(where, value, "text")
    return value


def as_texts(where: str, value: Any) -> tuple[str, ...]:
    return tuple(as_text(f"{where}[{i}]", each) for i, each in enumerate(as_list(where, value)))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_number(where: str, value: Any) -> float:
    if not is_number(value):
        raise wrong(where, value, "a number")
    return float(value)


def as_numbers(where: str, value: Any, n: int) -> Any:
    numbers = tuple(as_number(f"{where}[{i}]", each) for i, each in enumerate(as_list(where, value)))
    if len(numbers) != n:
        raise wrong(where, list(numbers), f"a list of {n} numbers")
    return numbers
