"""How many threads a step is computed with: as many as have been quickest lately.

On a machine of its own that is one for each core. Where others compute too, a thread that has lost its core holds up
all that wait for it, and fewer are quicker. An answer's bytes do not depend on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

TRIED_EVERY: Final = 64  # of so many steps one is computed with another number of threads
FIRST: Final = 4  # so often each number is tried to begin with
SHARE: Final = 0.2  # of a new step in the mean of its number's seconds
QUICKER: Final = 0.9  # times the seconds of the number in use: what is not as quick as that changes nothing


@dataclass
class _Class:
    """Steps of about as many rows."""

    chosen: int
    steps: int = 0
    tried: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)


class ThreadChooser:
    """Numbers of threads from `most` down to 1 by halves, chosen for each class of steps by their measured seconds.

    What is tried beside the number in use is half and twice of it: no step takes much longer than it has to.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._classes: dict[int, _Class] = {}

    def threads(self, rows: int) -> int:
        """For the next step of so many rows."""
        kind = self._classes.setdefault(rows.bit_length(), _Class(self._most))
        numbers = [kind.chosen, *self._beside(kind.chosen)]
        for number in numbers:
            if kind.tried.get(number, 0) < FIRST:
                return number
        if len(numbers) > 1 and kind.steps % TRIED_EVERY == 0:
            return numbers[1 + kind.steps // TRIED_EVERY % (len(numbers) - 1)]
        return kind.chosen

    def learn(self, rows: int, threads: int, seconds: float) -> None:
        """What a step took; its number of threads is that of `threads`."""
        kind = self._classes[rows.bit_length()]
        kind.steps += 1
        kind.tried[threads] = kind.tried.get(threads, 0) + 1
        per_row = seconds / rows
        before = kind.seconds.get(threads, per_row)
        kind.seconds[threads] = before + SHARE * (per_row - before)
        known = [number for number in self._beside(kind.chosen) if kind.tried.get(number, 0) >= FIRST]
        best = min(known, key=lambda number: kind.seconds[number], default=kind.chosen)
        if kind.seconds[best] < QUICKER * kind.seconds.get(kind.chosen, 0.0):
            kind.chosen = best

    def _beside(self, number: int) -> Iterator[int]:
        if number > 1:
            yield number // 2
        above = self._most
        while above // 2 > number:
            above //= 2
        if above > number:
            yield above
