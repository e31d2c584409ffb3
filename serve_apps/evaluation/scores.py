"""Scores: unbiased pass@k and bootstrap intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


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


def score(correct: Sequence[int], samples: int, k: int, seed: int = 0) -> Interval:
    """Mean pass@k over tasks, with a percentile bootstrap over tasks.

    `correct` holds the number of right samples of each task.

    Raises:
        ValueError: there is no task.
    """
    if not correct:
        raise ValueError("a score needs at least one task")
    each = np.array([pass_at_k(samples, count, k) for count in correct])
    draws = np.random.default_rng(seed).integers(0, len(each), (RESAMPLES, len(each)))
    low, high = np.quantile(each[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(each.mean()), float(low), float(high))


def reported_k(samples: int) -> list[int]:
    """The k that are usual and defined for n samples."""
    return [k for k in (1, 10, 100) if k <= samples]
