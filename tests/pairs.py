"""Fewer cases for CI: those in which every pair of settings meets that meets in all of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

from tests.conftest import ALL_TESTS

Case = TypeVar("Case")


def covering(cases: Sequence[Case], settings: Callable[[Case], Mapping[object, object]]) -> list[Case]:
    """Chosen greedily, as all-pairs testing does; all cases, where all tests are asked for."""
    if os.environ.get(ALL_TESTS):
        return list(cases)
    pairs = [set(combinations(settings(case).items(), 2)) for case in cases]
    missing, chosen = set().union(*pairs), set[int]()
    while missing:
        best = max(range(len(cases)), key=lambda number: len(pairs[number] & missing))
        chosen.add(best)
        missing -= pairs[best]
    return [cases[number] for number in sorted(chosen)]
