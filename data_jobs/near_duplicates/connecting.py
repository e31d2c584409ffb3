"""Stage 4: verified pairs become components, cut into groups of neighbours that a task can decide about.

One task holds all verified pairs: 16 bytes each, and as much again for the components. Everything after it, the names
of files among it, is in tasks of a group each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_jobs.near_duplicates.arrays import load_array, save_array
from data_jobs.near_duplicates.clusters import labels_of
from data_jobs.near_duplicates.verification import Verified, edges_file, scores_file
from data_jobs.shards import map_shards
from starloom.artifact import ArtifactWriter

CONNECTED = ".connected"
EDGES, SCORES = f"{CONNECTED}/edges.npy", f"{CONNECTED}/scores.npy"
GROUP_EDGES = 50_000  # of whole components; about 20 MB while a task decides


@dataclass(frozen=True)
class Group:
    """Edges [start, stop) of `EDGES`: some whole components."""

    number: int
    start: int
    stop: int


def connect(verified: Verified, output: ArtifactWriter) -> list[Group]:
    """Sort the verified pairs by component, and cut them into groups of whole components."""

    def work(starts: Sequence[int]) -> list[Group]:
        edges = np.concatenate([np.empty((0, 2), np.int64), *(load_array(edges_file(one), output) for one in starts)])
        scores = np.concatenate([np.empty(0), *(load_array(scores_file(one), output) for one in starts)])
        if not len(edges):
            return []
        files, labels = labels_of(edges)
        of_edge = labels[np.searchsorted(files, edges[:, 0])]
        order = np.lexsort((edges[:, 1], edges[:, 0], of_edge))
        save_array(edges[order], EDGES, output)
        save_array(scores[order], SCORES, output)
        return _groups(of_edge[order])

    groups: list[Group]
    (groups,) = map_shards([verified.starts], work, name="connect")
    return groups


def _groups(labels: np.ndarray) -> list[Group]:
    """Cuts between components, int64 [edges] of labels in ascending order: about `GROUP_EDGES` edges each."""
    ends = np.append(np.flatnonzero(np.diff(labels)) + 1, len(labels))
    groups: list[Group] = []
    start = 0
    while start < len(labels):
        at = min(int(np.searchsorted(ends, start + GROUP_EDGES)), len(ends) - 1)
        stop = int(ends[at])
        groups.append(Group(len(groups), start, stop))
        start = stop
    return groups
