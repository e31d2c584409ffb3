"""Which texts may hold one of many: a rolling hash over every window of a text (Rabin and Karp's search).

Nearly no file holds a benchmark's text; those that cannot are told apart in one compiled pass, with no copy in lower
case and no automaton.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

_TABLE_BITS = 16
_SHIFT = np.uint64(64 - _TABLE_BITS)
_BASE = np.uint64(0x9E3779B97F4A7C15)


def normalize(text: str) -> str:
    """Lower case, every run of white space one space."""
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class Screen:
    """The first windows of all wanted texts, each as long as the shortest of these is in UTF-8."""

    window: int  # bytes; 0: there is none
    hashes: np.ndarray  # uint64 [texts], sorted
    table: np.ndarray  # bool [2^16]: whether one of the hashes has these leading bits

    @classmethod
    def of(cls, normalized: Iterable[str]) -> "Screen":
        """The screen for texts that are normalized already and not empty."""
        wanted = [text.encode("utf-8", "surrogatepass") for text in normalized]
        window = min(map(len, wanted), default=0)
        hashes = np.unique(
            np.array([_hash(np.frombuffer(text, np.uint8)[:window]) for text in wanted], dtype=np.uint64)
        )
        table = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        table[hashes >> _SHIFT] = True
        return cls(window, hashes, table)

    def may_hold(self, text: str) -> bool:
        """Whether a text, normalized, may have a wanted one in it; False is sure."""
        plain = text if text.isascii() else normalize(text)
        data = np.frombuffer(plain.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        return bool(self.window) and bool(_may_hold(data, self.window, self.hashes, self.table))


def _hash(window: np.ndarray) -> int:
    value = 0
    for byte in window.tolist():
        value = (value * int(_BASE) + byte + 1) & 0xFFFFFFFFFFFFFFFF
    return value


@numba.njit(cache=True, nogil=True)
def _may_hold(data, window, hashes, table) -> Any:  # type: ignore[no-untyped-def]
    ring = np.zeros(window, dtype=np.uint64)  # the bytes of the window, each with one added
    leaving = np.uint64(1)  # base ** window: the weight of the byte that leaves
    for _ in range(window):
        leaving *= _BASE
    value = np.uint64(0)
    slot = count = 0
    spaced = True  # white space at the beginning goes, and all behind the first of a run
    for at in range(len(data)):
        byte = data[at]
        # what str.split takes for white space in ASCII
        if byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31:
            if spaced:
                continue
            byte, spaced = np.uint8(32), True
        else:
            spaced = False
            if 65 <= byte <= 90:
                byte += np.uint8(32)
        arriving = np.uint64(byte) + np.uint64(1)
        value = value * _BASE + arriving - ring[slot] * leaving
        ring[slot] = arriving
        slot = slot + 1 if slot + 1 < window else 0
        count += 1
        if count >= window and table[value >> _SHIFT]:
            place = np.searchsorted(hashes, value)
            if place < len(hashes) and hashes[place] == value:
                return True
    return False
