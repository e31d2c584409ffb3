"""Runs of characters of one class, found by a compiled loop: what detectors and rules look at closely, and no more.

A pattern of Python's engine tries every place of a text; most of what is searched here (hex, base64, keys, addresses)
lies within long runs of few kinds of characters, which are a small part of most files.
"""

from collections.abc import Iterator

import numpy as np


def character_class(members: str) -> np.ndarray:
    """A class of ASCII characters, bool [129]; its last place is for all that is no ASCII."""
    table = np.zeros(129, dtype=np.bool_)
    table[[ord(member) for member in members]] = True
    return table


def code_points(text: str) -> np.ndarray:
    """The code points of a text, uint8 (ASCII) or uint32 [characters]."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def runs(text: str, members: np.ndarray, shortest: int, counted: np.ndarray, least: int) -> Iterator[tuple[int, int]]:
    """Where the longest runs of `members` begin and end: of `shortest` characters at least, `least` of them `counted`.

    Args:
        text: any.
        members: the class of a run's characters, bool [129].
        shortest: characters of a run at least.
        counted: the class of those that are counted, bool [129].
        least: of them in a run at least.
    """
    from data_jobs.runs_kernel import longest_runs  # numba takes long to load, and a look at a recipe searches nothing

    found = longest_runs(code_points(text), members, shortest, counted, least)
    return zip(found[0].tolist(), found[1].tolist(), strict=True)
