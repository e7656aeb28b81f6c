"""Imported before any test."""

import os
import signal

# Two test processes with one thread each: tensors are tiny here, and threads that wait for each other are slow.
# Some tests compare runs bit by bit, across processes too, which more threads could upset.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell lets commands that it starts in the background ignore Ctrl-C, and so would the scripts under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
