"""Imported before any test."""

import envs  # noqa: F401 - before MuJoCo, so that it renders without a display
