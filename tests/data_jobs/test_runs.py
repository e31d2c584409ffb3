"""Runs of characters, held against Python's own engine."""

import re
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from data_jobs import runs

MEMBERS = runs.character_class(string.hexdigits)
DIGITS = runs.character_class(string.digits)


@settings(deadline=None)  # the first call compiles
@given(st.text(alphabet="0aF.\n é漢\U0001f600", max_size=200), st.integers(1, 9), st.integers(0, 5))
def test_runs_are_those_of_a_pattern(text: str, shortest: int, least: int) -> None:
    matches = re.finditer(rf"[0-9a-fA-F]{{{shortest},}}", text)
    expected = [found.span() for found in matches if sum(map(str.isdigit, found[0])) >= least]
    assert list(runs.runs(text, MEMBERS, shortest, DIGITS, least)) == expected


def test_a_lone_surrogate_is_a_character() -> None:
    assert list(runs.runs("\ud800abc", MEMBERS, 3, DIGITS, 0)) == [(1, 4)]
