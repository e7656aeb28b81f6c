"""Checks of settings: each raises a ConfigError of one line that names the setting, its value and what would work."""

from dataclasses import fields
from typing import Any

from act.errors import ConfigError

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def check_types(config: Any) -> None:
    """Every setting has the type of its default."""
    for field in fields(config):
        value, kind = getattr(config, field.name), type(field.default)
        fits = isinstance(value, float | int if kind is float else kind)
        fits = fits and (kind is bool or not isinstance(value, bool))  # bool is a subclass of int
        if kind in WORDS and not fits:
            raise ConfigError(f"{field.name} is {value!r}; it must be {WORDS[kind]}")


def check_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be positive")


def check_not_negative(config: object, *names: str) -> None:
    for name in names:
        if not (getattr(config, name) or 0) >= 0:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must not be negative")


def check_one_of(config: object, name: str, *known: str) -> None:
    if getattr(config, name) not in known:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; choose {' or '.join(known)}")


def check_bounds(config: object, bounds: dict[str, int]) -> None:
    """No setting is above its upper bound."""
    for name, most in bounds.items():
        if getattr(config, name, 0) > most:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at most {most}")
