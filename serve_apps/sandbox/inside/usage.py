"""CPU time and memory of the processes of a program. Runs inside the sandbox, on the standard library alone.

Where a control group is, its account is the truth. Where none can be had, the sum over the processes that are seen is
an estimate: it may count more than was used, and it counts at least half of it whatever a program tries.

- CPU: a child whose parent ignores SIGCHLD ends without being in anybody's account. So each process's own clock is read
  every few milliseconds while processes come and go, and one that is gone counts with what it had and half a round more
  (on average what it can have used since).
- Memory: pages that no process has mapped are nobody's. Shared mappings therefore count with their whole size, sockets
  with the most that they can hold, page tables with theirs; anonymous files (memfd) are not there (`syscalls.py`), the
  two temporary file systems have limits of their own.
"""

import contextlib
import os
import random
import time
from typing import NamedTuple

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEGABYTE = 1 << 20
SOCKET_MEGABYTES = 0.4  # both buffers of a socket, as the kernel sizes them
FREE_SOCKETS = 64
TICK_SECONDS, QUICK_SECONDS = 0.05, 0.005


class ProcessState(NamedTuple):
    """A line of /proc/PID/stat: parent, CPU seconds with those of waited-for children."""

    parent: int
    seconds: float


class Usage:
    """What a run has used so far: CPU seconds since it began, megabytes now and at most, processes now.

    `group` is the descriptor of the control group's account of CPU time, if there is one.
    """

    def __init__(self, group: int | None, isolated: bool) -> None:
        self.group, self.isolated = group, isolated
        self.reaped_seconds = self.megabytes = self.peak_megabytes = 0.0
        self.count = 0
        self._own: dict[int, float] = {}  # of each process its own clock, as it was seen last
        self._gone = self._tree = 0.0
        self._changing = False
        self._base = self._account()
        self.measured = self._memory_measured = time.monotonic()

    @property
    def seconds(self) -> float:
        """CPU seconds that count."""
        if self.group is not None:
            return self._account() - self._base
        return max(self._tree, self.reaped_seconds, self._gone + sum(self._own.values())) - self._base

    def begin(self) -> None:
        """What was used up to here does not count any more (a build before the program)."""
        self.measure()
        self._base += self.seconds

    def due(self) -> bool:
        """Whether it is time to measure again."""
        return time.monotonic() - self.measured > self.patience()

    def patience(self) -> float:
        """Seconds until the next measure: uneven, so that no program can be in step with it."""
        if self.group is None and self._changing:
            return QUICK_SECONDS * random.uniform(0.5, 1.5)
        return TICK_SECONDS

    def measure(self) -> None:
        """Look at the descendants of this process."""
        states = descendants(os.getpid())
        self.count = len(states)
        if self.group is None:
            self._measure_seconds(states)
            if time.monotonic() - self._memory_measured >= TICK_SECONDS:
                self.megabytes = sum(map(_megabytes, states)) + (_socket_megabytes() if self.isolated else 0)
                self.peak_megabytes = max(self.peak_megabytes, self.megabytes)
                self._memory_measured = time.monotonic()
        self.measured = time.monotonic()

    def _measure_seconds(self, states: dict[int, ProcessState]) -> None:
        self._tree = max(self._tree, self.reaped_seconds + sum(state.seconds for state in states.values()))
        round_seconds = min(time.monotonic() - self.measured, QUICK_SECONDS)
        gone = [process for process in self._own if process not in states]
        self._changing = bool(gone) or any(process not in self._own for process in states)
        for process in gone:
            self._gone += self._own.pop(process) + round_seconds / 2
        for process in states:
            with contextlib.suppress(OSError):
                self._own[process] = time.clock_gettime((~process << 3) | 2)  # clock_getcpuclockid(3)

    def _account(self) -> float:
        if self.group is None:
            return 0.0
        text = os.pread(self.group, 4096, 0)
        # cpu.stat of version 2, cpuacct.usage of version 1
        seconds = int(text.split()[1]) / 1e6 if text.startswith(b"usage_usec") else int(text) / 1e9
        return seconds - time.process_time()  # what this process itself has used is nobody's


def descendants(root: int) -> dict[int, ProcessState]:
    """All processes below `root`, by id."""
    states: dict[int, ProcessState] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names, often
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                states[int(name)] = _state(name)
    below: dict[int, ProcessState] = {}
    found = {root}
    while found:
        found = {process for process, state in states.items() if state.parent in found and process not in below}
        below.update((process, states[process]) for process in found)
    return below


def starved(processes: dict[int, ProcessState]) -> bool:
    """Whether these processes have waited for a core for longer than they have slept, as the kernel has counted."""
    waited = 0.0
    for process in processes:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{process}/schedstat", "rb") as file:
            waited += int(file.read().split()[1]) / 1e9
    return waited > 1.0


def _state(process: str) -> ProcessState:
    with open(f"/proc/{process}/stat", "rb") as file:
        values = file.read().rpartition(b")")[2].split()
    return ProcessState(int(values[1]), sum(int(value) for value in values[11:15]) / CLOCK_TICKS)


def _megabytes(process: int) -> float:
    sizes: dict[bytes, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{process}/status", "rb") as file:
            sizes = {
                line[:8].rstrip(b":\t "): int(line.split()[1]) for line in file if line.startswith((b"Rss", b"Vm"))
            }
        own = sizes.get(b"RssAnon", 0) + sizes.get(b"RssFile", 0) + sizes.get(b"VmPTE", 0)
        try:
            return own / 1024 + _shared_megabytes(process)
        except PermissionError:  # its mappings are hidden: they count with all that they can be
            return (own + sizes.get(b"VmSize", 0)) / 1024
    return 0.0


def _shared_megabytes(process: int) -> float:
    total = 0
    with open(f"/proc/{process}/maps", "rb") as file:
        for line in file:
            words = line.split(None, 5)
            if words[1][3:4] == b"s" and (len(words) < 6 or words[5].startswith((b"/dev/zero", b"/memfd:", b"/SYSV"))):
                low, _, high = words[0].partition(b"-")
                total += int(high, 16) - int(low, 16)
    return total / MEGABYTE


def _socket_megabytes() -> float:
    sockets = 0
    for kind in ("unix", "tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{kind}", "rb") as file:
            sockets += max(0, sum(1 for _ in file) - 1)
    return max(0, sockets - FREE_SOCKETS) * SOCKET_MEGABYTES
