"""What demos raises for data that cannot be used."""


class EpisodeError(ValueError):
    """A data file or folder that cannot be used: one line that names it, what is wrong and what would work."""
