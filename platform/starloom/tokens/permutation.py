"""A random permutation of 0..n-1 that is computed, not stored: a Feistel network with cycle walking.

Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), methods "Generalized-Feistel" and
"Cycle-Walking". It makes shuffling any number of windows free in memory and in start-up time.
"""

from dataclasses import dataclass

_MASK = (1 << 64) - 1
_ROUNDS = 6


def mix(value: int) -> int:
    """64 bits to 64 well-mixed bits (the finalizer of SplitMix64, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True)
class Permutation:
    """``permutation(i)`` for i in 0..size-1; another key is another order."""

    size: int
    key: int

    def __call__(self, index: int) -> int:
        """Where `index` goes; every index goes to a place of its own."""
        assert 0 <= index < self.size
        if self.size == 1:
            return 0
        half = ((self.size - 1).bit_length() + 1) // 2
        mask = (1 << half) - 1
        while True:
            left, right = index >> half, index & mask
            for turn in range(_ROUNDS):
                left, right = right, left ^ (mix(right ^ mix(self.key + turn)) & mask)
            index = (left << half) | right
            # the network permutes a power of four at least as large; walk on until inside
            if index < self.size:
                return index
