"""What goes into a program and comes out of it: sealed files in memory, and outputs of which a bounded part is kept."""

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serve_apps.sandbox.inside.messages import close_all

MOST_STDIN_BYTES = 64 << 20
LAST_BYTES = 8192  # a seal stands here, with what a test runner says after it
DRAIN_SECONDS = 10.0
_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # fcntl(2): no more seals, no shrinking, growing or writing


def sealed_memory(data: bytes) -> int:
    """Descriptor of a file in memory with these bytes that nobody can change any more, at its start."""
    import fcntl

    descriptor = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEAL_ALL)
    return descriptor


@dataclass
class Output:
    """The first bytes of an output, and its last ones; the rest is read and thrown away."""

    limit: int
    reading: int = -1
    writing: int = -1
    kept: bytearray = field(default_factory=bytearray)
    last: bytes = b""

    def __post_init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def drain(self) -> bool:
        """Read what is there; False at the end."""
        try:
            part = os.read(self.reading, 1 << 16)
        except BlockingIOError:
            return True
        self.kept += part[: max(0, self.limit - len(self.kept))]
        self.last = (self.last + part)[-LAST_BYTES:]
        return bool(part)


class Outputs:
    """The outputs of one program, by name; read all the time, so that nobody ever waits for a full pipe."""

    def __init__(self, **limits: int) -> None:
        self.named = {name: Output(limit) for name, limit in limits.items()}
        self._open = {output.reading: output for output in self.named.values()}

    @property
    def writing(self) -> list[int]:
        """The ends for the program."""
        return [output.writing for output in self.named.values()]

    def hand_over(self) -> None:
        """The program has its ends: those of this process are closed."""
        close_all(self.writing)

    def follow(self, channel: int, deadline: float, told: Callable[[], bool]) -> bool:
        """Read until `told` (called when `channel` has something) says that it is over; False at the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([channel, *self._open], [], [], left)
            self._drain(ready)
            if channel in ready and told():
                return True
        return False

    def finish(self) -> None:
        """Read what is left: all who could write have ended."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._open and (left := deadline - time.monotonic()) > 0:
            self._drain(select.select(list(self._open), [], [], left)[0])

    def _drain(self, ready: list[int]) -> None:
        for descriptor in ready:
            if descriptor in self._open and not self._open[descriptor].drain():
                del self._open[descriptor]

    def close(self) -> None:
        """Close the ends of this process."""
        close_all([output.reading for output in self.named.values()])
