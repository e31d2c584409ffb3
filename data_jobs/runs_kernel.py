"""The compiled loop of `data_jobs.runs`, in a module of its own: only what searches text loads the compiler."""

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def longest_runs(codes, members, shortest, counted, least) -> Any:  # type: ignore[no-untyped-def]
    """Where the longest runs begin and end, int64 [runs] each; the arguments are those of `data_jobs.runs.runs`."""
    # a run covers one of every `shortest` places: as Boyer and Moore's search does, the others are leapt over
    size = len(codes)
    room = size // (shortest + 1) + 1
    starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    written = 0
    at = shortest - 1
    while at < size:
        if not members[min(codes[at], 128)]:
            at += shortest
            continue
        start, end = at, at + 1
        while start > 0 and members[min(codes[start - 1], 128)]:
            start -= 1
        while end < size and members[min(codes[end], 128)]:
            end += 1
        if end - start >= shortest:
            seen = 0
            for place in range(start, end):
                seen += counted[min(codes[place], 128)]
            if seen >= least:
                starts[written], ends[written] = start, end
                written += 1
        at = end + shortest
    return starts[:written], ends[:written]
