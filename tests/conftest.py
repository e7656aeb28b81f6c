"""Imported before any test."""

import os

# Two test processes with one thread each: tensors are tiny here, and threads that wait for each other are slow.
# Some tests compare runs bit by bit, across processes too, which more threads could upset.
os.environ["OMP_NUM_THREADS"] = "1"
