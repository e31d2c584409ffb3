"""Scores: unbiased pass@k and Wilson intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of k samples, drawn without replacement from `samples` with `correct` right, is right.

    The unbiased estimator of Chen et al. 2021: 1 - C(n - c, k) / C(n, k), as a product that does not overflow.

    Raises:
        ValueError: k is more than n.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {correct} correct in {samples} samples is not defined")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def score(correct: Sequence[int], samples: int, k: int) -> Interval:
    """Mean pass@k over tasks, with the Wilson score interval (1927) of as many trials as there are tasks.

    `correct` holds the number of right samples of each task. A task's pass@k lies between 0 and 1, so that its variance
    is at most a single trial's: the interval is never too narrow, and of none of 20 right it is not [0, 0].

    Raises:
        ValueError: there is no task.
    """
    if not correct:
        raise ValueError("a score needs at least one task")
    value = sum(pass_at_k(samples, count, k) for count in correct) / len(correct)
    low, high = wilson(value, len(correct))
    return Interval(value, low, high)


def wilson(value: float, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion."""
    squared = NORMAL_95**2
    middle = (value + squared / (2 * trials)) / (1 + squared / trials)
    half = NORMAL_95 * math.sqrt(value * (1 - value) / trials + squared / (4 * trials**2)) / (1 + squared / trials)
    return max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


def reported_k(samples: int) -> list[int]:
    """The k that are usual and defined for n samples."""
    return [k for k in (1, 10, 100) if k <= samples]
