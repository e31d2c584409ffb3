"""How far an evaluation is, the score so far, and how long it will take: a line that a terminal keeps in its place."""

import sys
import threading
import time
from typing import IO

EVERY_SECONDS = 15.0  # where lines cannot be replaced
TERMINAL_SECONDS = 0.2
WIDTH = 24


class Progress:
    """Counts what is done of `total`. Safe to use from several threads; `stream` None says nothing."""

    def __init__(self, what: str, total: int, stream: IO[str] | None = sys.stderr) -> None:
        self._what, self._total, self._stream = what, total, stream
        self._done = self._passed = 0
        self._began = self._shown = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int = 1, passed: int | None = None) -> None:
        """`count` more are done, `passed` of them right where that is known."""
        with self._lock:
            self._done += count
            self._passed += passed or 0
            self._score = passed is not None
            every = TERMINAL_SECONDS if self._terminal() else EVERY_SECONDS
            if self._stream is not None and time.monotonic() - self._shown > every:
                self._shown = time.monotonic()
                self._show()

    def line(self) -> str:
        """What is shown."""
        share = self._done / self._total if self._total else 1.0
        bar = "█" * int(WIDTH * share) + "·" * (WIDTH - int(WIDTH * share))
        parts = [f"{self._what} {bar} {self._done} of {self._total}"]
        if self._score and self._done:
            parts.append(f"{100 * self._passed / self._done:.1f} % right so far")
        if 0 < self._done < self._total:
            parts.append(f"{_time((time.monotonic() - self._began) / self._done * (self._total - self._done))} left")
        return ", ".join(parts)

    def end(self) -> None:
        """The last line stays."""
        with self._lock:
            if self._stream is not None and self._terminal() and self._done:
                self._show()
                self._stream.write("\n")

    def _terminal(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def _show(self) -> None:
        assert self._stream is not None
        self._stream.write(f"\r{self.line()}\033[K" if self._terminal() else f"{self.line()}\n")
        self._stream.flush()

    _score = False


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
