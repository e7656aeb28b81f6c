"""Imported before any test."""

import os

# Two test processes with one thread each: tensors are tiny here, and threads that wait for each other are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
