"""How many threads compute. PyTorch takes all cores, and two processes that both do so wait for each other most of the
time: their threads spin where they should give way. So a process takes the cores that others leave free.
"""

import os
import time
from pathlib import Path

PROC = Path("/proc/stat")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
PATIENCE = 3  # looks on end that found more free cores before more are taken; others may want them, too


def allowed_cores() -> int:
    """Cores that this process may use at once: its affinity, and its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if QUOTA.exists():
        quota, period = QUOTA.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


class Threads:
    """PyTorch's threads in this process. Made before torch is imported, so that it can watch the machine meanwhile.

    The number moves results by rounding: whoever wants them bit for bit names one.

    Args:
        wanted: how many; 0: as many as there are cores that others leave free, looked at again by every `adapt`.

    Attributes:
        count: how many there are; 0 before the first `adapt`.
    """

    def __init__(self, wanted: int = 0):
        self.wanted, self.count = wanted, 0
        self._free_looks = 0
        self._before = self._times()

    def adapt(self) -> str:
        """Sets the number of threads by what other processes did since the last look. Returns what changed, in words,
        or "".
        """
        import torch

        if self.count == 0:
            self._most = min(torch.get_num_threads(), allowed_cores())  # OMP_NUM_THREADS counts
        now = self._times()
        spans = [after - before for after, before in zip(now, self._before, strict=True)]
        if self.wanted:
            others, count = 0.0, self.wanted
        elif len(spans) < 3 or spans[0] <= 0:
            others, count = 0.0, self._most
        else:
            seconds, busy, own = spans
            others = max(0.0, busy - own) / seconds
            count = max(1, min(self._most, round(self._most - others)))
        self._before = now
        self._free_looks = self._free_looks + 1 if count > self.count else 0
        if count == self.count or (0 < self.count < count and self._free_looks < PATIENCE):
            return ""
        self.count, self._free_looks = count, 0
        torch.set_num_threads(count)
        return f"threads: {count} of {allowed_cores()} cores" + (f", others use {others:.1f}" if others > 0.1 else "")

    def _times(self) -> tuple[float, ...]:
        """Seconds so far: of the clock, of all processes on our cores, of this process. Only the first where the
        system does not tell."""
        if self.wanted or not PROC.exists():
            return (time.monotonic(),)
        tick, cores = os.sysconf("SC_CLK_TCK"), {f"cpu{core}" for core in os.sched_getaffinity(0)}
        lines = [line.split() for line in PROC.read_text().splitlines()]
        # user, nice, system, idle, iowait, irq, softirq, steal; a guest's time is in user.
        busy = sum(sum(map(int, (*each[1:4], *each[6:9]))) for each in lines if each[0] in cores)
        return time.monotonic(), busy / tick, time.process_time()
