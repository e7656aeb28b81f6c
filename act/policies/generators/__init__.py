"""Generators by name: how an encoded observation becomes an action chunk.

A new generator is one file here, one config dataclass in `config.py` and one line in its table `GENERATORS`.
"""
