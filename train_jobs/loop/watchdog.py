"""A rank that hangs is named within a minute, with its stack, and the run restarts.

A collective call waits for ever for a rank that does not come, in every other rank, and no error says which one it is.
Here each process tells the others each second, through a file, what it is doing and since when. When a process has not
moved for `hang_seconds` it looks at all of these: the rank that stopped first is the one that the others wait for. It
writes that down with its own stack and ends; Ray Train then starts the group again from the last checkpoint.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from train_jobs.loop.timings import PartTimer

FOLDER: Final = "logs/watch"
EXIT_CODE: Final = 75
BEAT_SECONDS: Final = 1.0
STEPS_OF_PATIENCE: Final = 5  # a rank is not called hung before so many times its longest step


@dataclass(frozen=True)
class Beat:
    """What a rank tells of itself. Times are seconds of the shared clock."""

    rank: int
    host: str
    process: int
    step: int
    part: str
    since: float
    at: float


class Watchdog:
    """One process's heartbeat and its eye on the others. A context manager around the training loop."""

    def __init__(self, folder: Path, timer: PartTimer, *, rank: int, ranks: int, hang_seconds: float) -> None:
        self._folder, self._timer = folder / FOLDER, timer
        self._rank, self._ranks, self._limit = rank, ranks, hang_seconds
        self._path = self._folder / f"rank-{rank}.json"
        self._step, self._step_began, self._longest = 0, time.time(), 0.0
        self._paused = True  # the first step compiles and connects: nobody knows how long that takes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._limit > 0:
            self._beat()  # in place of an earlier attempt's
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()

    def step(self, step: int) -> None:
        """A step was made."""
        now = time.time()
        if self._step:
            self._longest = max(self._longest, now - self._step_began)
        self._step, self._step_began, self._paused = step, now, False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Something that may take long: waiting for storage."""
        self._paused = True
        try:
            yield
        finally:
            self._paused, self._step_began = False, time.time()

    def _watch(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            beat = self._beat()
            quiet = beat.at - max(beat.since, self._step_began)
            if not self._paused and quiet > max(self._limit, STEPS_OF_PATIENCE * self._longest):
                self._give_up(beat.at)

    def _beat(self) -> Beat:
        part, since = self._timer.current
        beat = Beat(self._rank, os.uname().nodename, os.getpid(), self._step, part, since, time.time())
        _write(self._path, asdict(beat))
        return beat

    def _give_up(self, now: float) -> None:
        with (self._folder / f"stack-{self._rank}.txt").open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        first = culprit(self._folder, self._ranks)
        if first is None:
            line = "a rank hangs, and none has told what it does"
        else:
            silent = f", which does not answer for {now - first.at:.0f} s" if now - first.at > 3 * BEAT_SECONDS else ""
            line = (
                f"rank {first.rank} on {first.host} (process {first.process}) hangs in step {first.step + 1}, in "
                f"{first.part or 'the loop'} for {now - first.since:.0f} s{silent}; stacks are in {self._folder}"
            )
            _write(self._folder / "hang.json", {**asdict(first), "told_by": self._rank})
        sys.stderr.write(f"watchdog of rank {self._rank}: {line}\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)


def culprit(folder: Path, ranks: int) -> Beat | None:
    """The rank that stopped first: the others went on until they needed it. One that is silent comes before all."""
    beats = []
    for rank in range(ranks):
        path = folder / f"rank-{rank}.json"
        if path.exists():
            beats.append(Beat(**json.loads(path.read_text())))
    newest = max((beat.at for beat in beats), default=0.0)
    return min(beats, key=lambda beat: (newest - beat.at < 3 * BEAT_SECONDS, beat.step, beat.since), default=None)


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
