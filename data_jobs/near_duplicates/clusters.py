"""Stage 4: connected components over verified pairs, the file that each keeps, and the chain that leads to it."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Preference = Callable[[int], tuple[object, ...]]


@dataclass(frozen=True)
class ClusterMember:
    """A file in a cluster; `via` is the next file on the chain to the survivor (the survivor itself: its own)."""

    file: int
    survivor: int
    via: int


def labels_of(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The files of pairs int64 [pairs, 2], ascending, and the least file in each one's component; int64 [files]."""
    files, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(pairs.shape)
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(len(files), len(files)))
    count, labels = connected_components(graph, directed=False)
    least = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(least, labels, files)
    return files, least[labels]


def components(pairs: np.ndarray) -> list[np.ndarray]:
    """The files of every connected component of pairs int64 [pairs, 2]: int64 [files] each, ascending.

    The components are ordered by their least file.
    """
    if not len(pairs):
        return []
    files, labels = labels_of(pairs)
    order = np.lexsort((files, labels))
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    return [files[group] for group in np.split(order, cuts)]


def resolve(pairs: np.ndarray, preference: Preference, *, strict: bool) -> list[list[ClusterMember]]:
    """Every cluster of pairs int64 [pairs, 2] with its survivor, the member with the least `preference`.

    With `strict` only direct neighbours of the survivor are dropped for it; what is left of the cluster is resolved
    again, so that each dropped file is itself within the threshold of the file that is kept for it.
    """
    neighbours: dict[int, list[int]] = {}
    for a, b in pairs.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    clusters = []
    for group in components(pairs):
        remaining = set(group.tolist())
        while len(remaining) > 1:
            survivor = min(remaining, key=preference)
            tree = _chains(survivor, neighbours, remaining, limit=1 if strict else None)
            if len(tree) > 1:
                clusters.append([ClusterMember(file, survivor, tree[file]) for file in sorted(tree)])
            remaining -= set(tree)
            if not strict:
                break
    return clusters


def _chains(start: int, neighbours: Mapping[int, list[int]], allowed: set[int], limit: int | None) -> dict[int, int]:
    """Breadth-first tree from `start` within `allowed`: each file's next one towards `start`."""
    tree = {start: start}
    waiting = deque([(start, 0)])
    while waiting:
        file, depth = waiting.popleft()
        if limit is not None and depth >= limit:
            continue
        for other in sorted(neighbours.get(file, ())):
            if other in allowed and other not in tree:
                tree[other] = file
                waiting.append((other, depth + 1))
    return tree
