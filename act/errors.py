"""The one exception of this room that is meant for the person at the keyboard."""


class ConfigError(ValueError):
    """A setting that cannot work: one line with what was wrong, what was given and what would work."""
