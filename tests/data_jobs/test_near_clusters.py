import itertools

import numpy as np
import pytest

from data_jobs.near_duplicates.candidates import bucket_edges, distinct_pairs
from data_jobs.near_duplicates.clusters import components, resolve
from data_jobs.near_duplicates.config import choose_bands


def pairs(*given: tuple[int, int]) -> np.ndarray:
    return np.array(given, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_chosen_bands_reach_the_recall_and_longer_rows_do_not(threshold: float) -> None:
    bands = choose_bands(256, threshold, 0.99)
    assert bands.count * bands.rows <= 256
    assert bands.chance(threshold) >= 0.99
    longer = bands.rows + 1
    assert 1 - (1 - threshold**longer) ** (256 // longer) < 0.99


def test_impossible_recall_is_refused() -> None:
    with pytest.raises(ValueError, match="raise permutations"):
        choose_bands(16, 0.05, 0.999)


def test_small_bucket_gives_all_pairs() -> None:
    edges = bucket_edges(np.array([7, 9, 7, 7], dtype=np.uint64), np.array([0, 1, 2, 3]), 4)
    assert edges.tolist() == [[0, 2], [0, 3], [2, 3]]


@pytest.mark.slow
def test_bucket_of_a_million_gives_edges_in_proportion_to_its_files() -> None:
    size = 1_000_000
    edges = bucket_edges(np.zeros(size, dtype=np.uint64), np.arange(size), 4)
    assert len(edges) <= 5 * size
    assert len(components(edges)) == 1


def test_components_agree_with_a_walk_over_random_graphs() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        edges = distinct_pairs([np.sort(generator.integers(0, 60, (35, 2)), axis=1)])
        edges = edges[edges[:, 0] != edges[:, 1]]
        groups: list[set[int]] = []
        for a, b in edges.tolist():
            touching = [group for group in groups if a in group or b in group]
            groups = [group for group in groups if group not in touching] + [set().union({a, b}, *touching)]
        assert sorted(sorted(g) for g in groups) == [g.tolist() for g in components(edges)]


def test_chain_keeps_one_file_and_names_the_way_to_it() -> None:
    (cluster,) = resolve(pairs((1, 2), (2, 3), (3, 4)), lambda file: (file,), strict=False)
    assert {(m.file, m.survivor, m.via) for m in cluster} == {(1, 1, 1), (2, 1, 1), (3, 1, 2), (4, 1, 3)}


def test_strict_chain_drops_only_direct_neighbours_of_a_kept_file() -> None:
    edges = pairs((1, 2), (2, 3), (3, 4))
    clusters = resolve(edges, lambda file: (file,), strict=True)
    alike = {tuple(sorted(edge)) for edge in edges.tolist()}
    dropped = {(m.survivor, m.file) for m in itertools.chain(*clusters) if m.file != m.survivor}
    assert dropped == {(1, 2), (3, 4)}
    assert dropped <= alike


def test_survivor_is_the_preferred_file_wherever_it_stands_in_the_chain() -> None:
    (cluster,) = resolve(pairs((1, 2), (2, 3)), lambda file: (-file,), strict=False)
    assert {m.survivor for m in cluster} == {3}
