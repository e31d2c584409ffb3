"""Stage 3: the exact Jaccard similarity of every candidate pair, on the same n-grams as the signatures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_jobs.near_duplicates.arrays import load_array, load_slice, save_array
from data_jobs.near_duplicates.candidates import COPIED, PAIRS, WANTED
from data_jobs.near_duplicates.config import DeduplicateConfig, SketchConfig
from data_jobs.near_duplicates.kernel import Texts, jaccards, normal_hashes, shingle_sets
from data_jobs.near_duplicates.reading import reading_of
from data_jobs.near_duplicates.signing import SignedShard, bases_of
from data_jobs.shards import map_shards
from starloom.artifact import Artifact, ArtifactWriter
from starloom.kinds import data_file

SHINGLES, VERIFIED = "ngrams", ".verified"
NORMAL = "normal"  # column: the hash of the text without its white space
FACTS = ("id", "repo_name", "path", "licenses", "stars", "source", "language")


def prepare_shingles(
    numbers: Sequence[int],
    rows_of: Callable[[int], np.ndarray],
    shards: Sequence[SignedShard],
    collected: Artifact,
    config: SketchConfig,
    output: ArtifactWriter,
) -> None:
    """Write facts and n-gram sets of some files of the numbered shards; they replace the text from here on.

    One Arrow file a shard, a row a file: `row` in the shard, `FACTS`, `shingles`, sorted and distinct, and `NORMAL`.

    `rows_of` tells, in the task, the rows of a shard that are wanted, int64 [rows], ascending.
    """

    def work(number: int) -> None:
        name = f"{SHINGLES}/{shards[number].name}.arrow"
        if output.exists(name):
            return
        rows = rows_of(number)
        table = collected.read_table(data_file(shards[number].name), ["content", "kind", *FACTS])
        facts = table.select(FACTS).take(pa.array(rows)).combine_chunks()
        texts = Texts.of(table["content"])
        reading = reading_of(table, texts, config)
        sets, offsets = shingle_sets(texts, rows, reading)
        shingles = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(sets))
        written = facts.append_column("row", pa.array(rows)).append_column("shingles", shingles)
        written = written.append_column(NORMAL, pa.array(normal_hashes(texts, rows, reading)))
        with output.create(name) as file, pa.ipc.new_file(file, written.schema) as writer:
            writer.write_table(written)

    map_shards([number for number in numbers if shards[number].known is None], work, name="shingle")


def wanted_rows(shards: Sequence[SignedShard], output: ArtifactWriter) -> Callable[[int], np.ndarray]:
    """A function that tells the rows of a shard that are in any candidate pair, int64 [rows], ascending."""
    bases = bases_of(shards)
    return lambda number: _within(load_array(WANTED, output), bases, number)


def prepared(shard: SignedShard, columns: Sequence[str], output: ArtifactWriter) -> pa.Table:
    """Some columns of what `prepare_shingles` wrote for a shard."""
    with shard.home(output).open_file(f"{SHINGLES}/{shard.name}.arrow") as file:
        fields = pa.ipc.open_file(file).schema
        wanted = [fields.get_field_index(name) for name in columns]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted)).read_all()


@dataclass(frozen=True)
class Verified:
    """How many pairs are alike enough, and the starts of the files with them (`edges_file`, `scores_file`)."""

    pairs: int
    starts: tuple[int, ...]


def verify(pairs: int, shards: Sequence[SignedShard], config: DeduplicateConfig, output: ArtifactWriter) -> Verified:
    """Hold the candidate pairs against each other; `prepare_shingles` must have seen their files."""
    step = config.edges_per_task

    def work(start: int) -> int:
        if output.exists(scores_file(start)):
            return len(load_array(scores_file(start), output))
        some = load_slice(PAIRS, start, start + step, output)
        scores = similarities(some, shards, output)
        scores[load_slice(COPIED, start, start + step, output)] = 1.0
        alike = scores >= thresholds(some, shards, config, output)
        save_array(some[alike], edges_file(start), output)
        save_array(scores[alike], scores_file(start), output)
        return int(alike.sum())

    starts = tuple(range(0, pairs, step))
    return Verified(sum(map_shards(starts, work, name="verify")), starts)


def edges_file(start: int) -> str:
    """Where the verified ones of the pairs from `start` on are, int64 [pairs, 2]."""
    return f"{VERIFIED}/edges-{start:012d}.npy"


def scores_file(start: int) -> str:
    """Where their Jaccard similarities are, float64 [pairs]."""
    return f"{VERIFIED}/scores-{start:012d}.npy"


def thresholds(
    pairs: np.ndarray, shards: Sequence[SignedShard], config: SketchConfig, output: ArtifactWriter
) -> np.ndarray:
    """How alike each pair must be, float64: the lower of its two languages' thresholds."""
    if not any(rule.threshold for rule in config.languages.values()):
        return np.full(len(pairs), config.threshold)
    bases = bases_of(shards)
    files, places = np.unique(pairs, return_inverse=True)
    limits = [np.empty(0)]
    for number in np.unique(np.searchsorted(bases, files, side="right") - 1).tolist():
        table = prepared(shards[number], ["row", "language"], output)
        at = np.searchsorted(table["row"].to_numpy(), _within(files, bases, number))
        languages = table["language"].take(pa.array(at)).to_pylist()
        limits.append(np.array([config.threshold_of(language) for language in languages]))
    lower: np.ndarray = np.concatenate(limits)[places.reshape(pairs.shape)].min(axis=1, initial=1.0)
    return lower


def _within(files: np.ndarray, bases: np.ndarray, number: int) -> np.ndarray:
    """The rows of shard `number` among ascending file numbers."""
    first, last = np.searchsorted(files, bases[number : number + 2])
    rows: np.ndarray = files[first:last] - bases[number]
    return rows


def similarities(pairs: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter) -> np.ndarray:
    """Jaccard similarity of each of the pairs int64 [pairs, 2], float64 [pairs]."""
    bases = bases_of(shards)
    files, places = np.unique(pairs, return_inverse=True)
    sets, lengths = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for number in np.unique(np.searchsorted(bases, files, side="right") - 1).tolist():
        table = prepared(shards[number], ["row", "shingles"], output)
        at = np.searchsorted(table["row"].to_numpy(), _within(files, bases, number))
        # only what these pairs need stays in memory
        needed = table["shingles"] if len(at) == table.num_rows else table["shingles"].take(pa.array(at))
        for chunk in needed.chunks:
            sets.append(chunk.flatten().to_numpy())
            lengths.append(np.diff(chunk.offsets.to_numpy()))
    return jaccards(np.concatenate(sets), np.cumsum(np.concatenate(lengths)), places.reshape(pairs.shape))
