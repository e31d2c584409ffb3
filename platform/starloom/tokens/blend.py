"""Which group sample i comes from: error diffusion over a whole run, computed for any i and kept nowhere.

The groups are the leaves of a binary tree. At each node the samples that come by go left or right as a line of the
weights' slope is drawn on a grid (Bresenham 1965): of any first n of them the nearest whole number to n times the left
side's share went left. So after any number of samples each group has had its share to within one sample a level of
the tree, however small the share, and the place of a sample is found in as many steps.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

from starloom.tokens.permutation import mix


class Blend:
    """Groups by their weights; `place(i)` is the same function for everybody who has weights and seed."""

    def __init__(self, weights: Sequence[Fraction], seed: int) -> None:
        """Positive weights, one a group."""
        scale = lcm(*(weight.denominator for weight in weights))
        sums = [0]
        for weight in weights:
            sums.append(sums[-1] + int(weight * scale))
        self._sums, self._seed = sums, seed

    def place(self, index: int) -> tuple[int, int]:
        """The group of sample `index`, and the how-many-eth sample of that group it is."""
        first, last = 0, len(self._sums) - 1
        while last - first > 1:
            middle = (first + last) // 2
            left, both = self._sums[middle] - self._sums[first], self._sums[last] - self._sums[first]
            # where the line begins: else all rare groups would come at the same time
            phase = mix(self._seed ^ mix(first << 32 | last)) % both
            before = (index * left + phase) // both
            if ((index + 1) * left + phase) // both > before:
                index, last = before, middle
            else:
                index, first = index - before, middle
        return first, index
