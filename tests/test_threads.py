"""Laws of sharing a machine: a process takes the cores that others leave free, and no more."""

import os

import pytest
import torch

from act import threads
from act.threads import Threads, allowed_cores


class Machine:
    """A machine of four cores as /proc/stat tells of it; `run` lets time pass."""

    def __init__(self, tmp_path, monkeypatch):
        self.file, self.clock, self.own, self.busy = tmp_path / "stat", 0.0, 0.0, 0.0
        monkeypatch.setattr(threads, "PROC", self.file)
        monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6})
        monkeypatch.setattr(os, "sysconf", lambda name: 100)
        monkeypatch.setattr("time.monotonic", lambda: self.clock)
        monkeypatch.setattr("time.process_time", lambda: self.own)
        self.count = 4
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.count)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(self, "count", count))
        self.run(0, 0, 0)

    def run(self, seconds: float, own: float, others: float) -> None:
        """We and others keep so many cores busy; so do strangers on cores that are not ours."""
        self.clock += seconds
        self.own += seconds * own
        self.busy += seconds * (own + others)
        ticks = round(100 * self.busy / 4)
        lines = [f"cpu{i} {ticks if i % 2 == 0 else 9999} 0 0 77 5 0 0 0 0 0" for i in range(8)]
        self.file.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 3", "ctxt 5"]))


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(("others", "count"), [(0, 4), (0.3, 4), (0.9, 3), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_what_others_use_is_left_to_them(machine, others, count):
    taken = Threads()
    machine.run(3, own=1, others=others)
    assert taken.adapt().startswith(f"threads: {count} of 4 cores")
    assert machine.count == taken.count == count


def test_it_gives_way_at_once_and_takes_more_with_patience(machine):
    taken = Threads()
    machine.run(3, own=1, others=0)
    taken.adapt()
    machine.run(10, own=2, others=2)  # another one of four threads came
    assert taken.adapt() == "threads: 2 of 4 cores, others use 2.0"
    machine.run(10, own=2, others=2)
    assert taken.adapt() == ""
    for said in ("", "", "threads: 4 of 4 cores"):  # and has gone
        machine.run(10, own=2, others=0)
        assert taken.adapt() == said


def test_a_number_that_was_asked_for_stays(machine):
    taken = Threads(7)
    for _ in range(3):
        machine.run(3, own=1, others=3)
        taken.adapt()
        assert machine.count == 7


def test_shares_of_containers_and_openmp_count(machine, tmp_path):
    assert allowed_cores() == 4
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert allowed_cores() == 4
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert allowed_cores() == 2
    machine.count = 1  # OMP_NUM_THREADS
    taken = Threads()
    machine.run(3, own=1, others=0)
    assert taken.adapt() == "threads: 1 of 2 cores"


def test_where_the_system_does_not_tell_all_are_taken(machine):
    machine.file.unlink()
    taken = Threads()
    assert taken.adapt() == "threads: 4 of 4 cores"
    assert taken.adapt() == ""
