"""Stage 3: the exact Jaccard similarity of every candidate pair, on the same n-grams as the signatures."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from data_jobs.near_duplicates.config import SketchConfig
from data_jobs.near_duplicates.kernel import Texts, jaccards, normal_hashes, shingle_sets
from data_jobs.near_duplicates.reading import reading_of
from data_jobs.near_duplicates.signing import SignedShard, bases_of
from data_jobs.shards import map_shards
from starloom.artifact import Artifact, ArtifactWriter
from starloom.kinds import data_file

SHINGLES = "ngrams"
NORMAL = "normal"  # column: the hash of the text without its white space
FACTS = ("id", "repo_name", "path", "licenses", "stars", "source", "language")


def prepare_shingles(
    wanted: np.ndarray,
    shards: Sequence[SignedShard],
    collected: Artifact,
    config: SketchConfig,
    output: ArtifactWriter,
) -> None:
    """Write facts and n-gram sets of the wanted files, shard by shard; they replace the text from here on.

    One Arrow file a shard, a row a file: `row` in the shard, `FACTS`, `shingles`, sorted and distinct, and `NORMAL`.

    `wanted` is int64 [files], ascending.
    """
    bases = bases_of(shards)

    def work(number: int) -> None:
        name = f"{SHINGLES}/{shards[number].name}.arrow"
        if output.exists(name):
            return
        rows = _within(wanted, bases, number)
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

    concerned = np.unique(np.searchsorted(bases, wanted, side="right") - 1).tolist()
    map_shards([number for number in concerned if shards[number].known is None], work, name="shingle")


def prepared(shard: SignedShard, columns: Sequence[str], output: ArtifactWriter) -> pa.Table:
    """Some columns of what `prepare_shingles` wrote for a shard."""
    with shard.home(output).open_file(f"{SHINGLES}/{shard.name}.arrow") as file:
        fields = pa.ipc.open_file(file).schema
        wanted = [fields.get_field_index(name) for name in columns]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted)).read_all()


def similarities(
    pairs: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter, *, edges_per_task: int
) -> np.ndarray:
    """Jaccard similarity of each pair, float64; `prepare_shingles` must have seen the files."""
    starts = list(range(0, len(pairs), edges_per_task))

    def work(start: int) -> np.ndarray:
        return _similar(pairs[start : start + edges_per_task], shards, output)

    parts = map_shards(starts, work, name="verify")
    return np.concatenate([np.empty(0), *parts])


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


def _similar(pairs: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter) -> np.ndarray:
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
