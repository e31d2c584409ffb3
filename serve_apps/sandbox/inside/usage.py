"""CPU time and memory of all processes below this one. Runs inside the sandbox, on the standard library alone."""

import contextlib
import os
import time
from dataclasses import dataclass, field

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class ProcessState:
    """A line of /proc/PID/stat: parent, CPU seconds with those of waited-for children, resident pages."""

    parent: int
    seconds: float
    pages: int


@dataclass
class Usage:
    """What a run has used so far; `base_seconds` of it do not count (a build before the program)."""

    seconds: float = 0.0
    reaped_seconds: float = 0.0
    base_seconds: float = 0.0
    megabytes: float = 0.0
    peak_megabytes: float = 0.0
    count: int = 0
    measured: float = field(default_factory=time.monotonic)

    @property
    def counted_seconds(self) -> float:
        """CPU seconds that the limit is about."""
        return max(self.seconds, self.reaped_seconds) - self.base_seconds

    def measure(self) -> None:
        """Sum over the descendants of this process."""
        states = list(descendants(os.getpid()).values())
        self.seconds = max(self.seconds, self.reaped_seconds + sum(state.seconds for state in states))
        self.megabytes = sum(state.pages for state in states) * PAGE_BYTES / (1 << 20)
        self.peak_megabytes = max(self.peak_megabytes, self.megabytes)
        self.count = len(states)
        self.measured = time.monotonic()


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


def _state(process: str) -> ProcessState:
    with open(f"/proc/{process}/stat", "rb") as file:
        values = file.read().rpartition(b")")[2].split()
    seconds = sum(int(value) for value in values[11:15]) / CLOCK_TICKS
    return ProcessState(int(values[1]), seconds, int(values[21]))
