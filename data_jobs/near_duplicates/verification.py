"""Stage 3: the exact Jaccard similarity of every candidate pair, on the same n-grams as the signatures."""

from collections.abc import Sequence

import numpy as np

from data_jobs.near_duplicates.candidates import load_array, save_array
from data_jobs.near_duplicates.kernel import Texts, jaccard, shingle_sets
from data_jobs.near_duplicates.signing import SignedShard
from data_jobs.shards import map_shards
from starloom.artifact import Artifact, ArtifactWriter

SHINGLES = ".shingles"


def bases_of(shards: Sequence[SignedShard]) -> np.ndarray:
    """The number of each shard's first file, and the number of all files at the end."""
    return np.concatenate(([0], np.cumsum([shard.rows for shard in shards]))).astype(np.int64)


def prepare_shingles(
    pairs: np.ndarray, shards: Sequence[SignedShard], collected: Artifact, ngram: int, output: ArtifactWriter
) -> None:
    """Write the n-gram sets of every file in `pairs`, shard by shard; they replace its text from here on."""
    wanted = np.unique(pairs)
    bases = bases_of(shards)

    def work(number: int) -> None:
        name = f"{SHINGLES}/{shards[number].name}"
        if output.exists(f"{name}.offsets.npy"):
            return
        rows = wanted[(wanted >= bases[number]) & (wanted < bases[number + 1])] - bases[number]
        texts = Texts.of(collected.read_table(f"data/{shards[number].name}", ["content"])["content"])
        sets, offsets = shingle_sets(texts, rows, ngram)
        save_array(rows, f"{name}.rows.npy", output)
        save_array(sets, f"{name}.npy", output)
        save_array(offsets, f"{name}.offsets.npy", output)

    map_shards(list(range(len(shards))), work, name="shingle")


def similarities(
    pairs: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter, *, edges_per_task: int
) -> np.ndarray:
    """Jaccard similarity of each pair, float64; `prepare_shingles` must have seen the files."""
    starts = list(range(0, len(pairs), edges_per_task))

    def work(start: int) -> np.ndarray:
        return _similar(pairs[start : start + edges_per_task], shards, output)

    parts = map_shards(starts, work, name="verify")
    return np.concatenate([np.empty(0), *parts])


def _similar(pairs: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter) -> np.ndarray:
    bases = bases_of(shards)
    opened: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def shingles(file: int) -> np.ndarray:
        number = int(np.searchsorted(bases, file, side="right")) - 1
        if number not in opened:
            name = f"{SHINGLES}/{shards[number].name}"
            suffixes = (".rows.npy", ".npy", ".offsets.npy")
            rows, sets, offsets = (load_array(name + suffix, output) for suffix in suffixes)
            opened[number] = rows, sets, offsets
        rows, sets, offsets = opened[number]
        at = int(np.searchsorted(rows, file - bases[number]))
        return sets[offsets[at] : offsets[at + 1]]

    return np.array([jaccard(shingles(int(a)), shingles(int(b))) for a, b in pairs])
