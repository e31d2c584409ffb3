"""Index the corpus for attribution: which file holds this piece of code, as it is or with other names."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from data_jobs.shards import map_shards
from starloom import storage
from starloom.artifact import ArtifactWriter, finished
from starloom.attribution.segment import build
from starloom.config import Config
from starloom.errors import UserError
from starloom.fetched import local_copy
from starloom.kinds import Attribution, Corpus, data_file
from starloom.program import main
from starloom.segmentfiles import FILE_NAMES, FILES, SegmentInfo, rows_digest
from starloom.step import Count, Outcome, Step, StepContext

_COLUMNS = tuple(name for name in FILES.names if name not in ("shard", "row"))


MOST_BYTES = 4_000_000_000  # of a segment's text: places in it are uint32


class IndexConfig(Config):
    """How the index is cut."""

    segment_megabytes: int = Field(256, ge=1, le=4096)  # of text; a segment is built by one task


def run(config: IndexConfig, context: StepContext) -> Outcome:
    """Write segments over consecutive shards, and a table of the repositories.

    Raises:
        UserError: the corpus is empty.
    """
    corpus = Corpus(context.only(Corpus.kind))
    groups = _grouped(corpus, config.segment_megabytes * 1_000_000)
    if not groups:
        raise UserError(f"{corpus.artifact.name} has no rows; there is nothing to index")
    before = _segments_before(context)

    def work(numbered: tuple[int, Sequence[str]]) -> tuple[SegmentInfo, bool]:
        return _segment(corpus, *numbered, before, context.output)

    made = map_shards(list(enumerate(groups)), work, name="index")
    infos = [info for info, _ in made]
    taken = sum(over for _, over in made)
    if taken:
        context.say(f"{taken} of {len(made)} segments are those of the index before")
    names = [Attribution.segment(number) for number in range(len(infos))]
    _write_repositories(corpus, context.output)
    files = sum(info.files for info in infos)
    index_bytes = sum(
        size for info in infos for name, size in info.sizes.items() if name not in ("text.bin", "starts.bin")
    )
    return Outcome(
        rows_in=files,
        rows_out=files,
        details=Attribution.details(
            corpus=corpus.artifact.fingerprint,
            segments={name: asdict(info) for name, info in zip(names, infos, strict=True)},
            index_bytes=index_bytes,
        ),
    )


def _grouped(corpus: Corpus, size: int) -> list[list[str]]:
    """Consecutive shards of about `size` bytes of text, half of it at least on average.

    How many go together depends on their mean alone, as a power of two: rows that leave one shard move no other to
    another segment, so that all but its own are taken over.
    """
    texts = {shard: _text_bytes(corpus, shard) for shard in corpus.shards()}
    held = [text for text in texts.values() if text]
    together = 1 << max(0, int(math.log2(size * len(held) / sum(held)))) if held else 1
    groups: list[list[str]] = []
    opened, taken = -1, 0
    for number, (shard, text) in enumerate(texts.items()):
        if not text:
            continue
        if number // together != opened or taken + text > MOST_BYTES:
            groups.append([])
            opened, taken = number // together, 0
        groups[-1].append(shard)
        taken += text
    return groups


def _text_bytes(corpus: Corpus, shard: str) -> int:
    """Bytes of a shard's text, from its footer alone; 0 where it has no rows."""
    with corpus.artifact.open_file(data_file(shard)) as file:
        metadata = pq.ParquetFile(file).metadata
    return sum(
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
        if metadata.num_rows and metadata.schema.column(column).name == "content"
    )


def _segments_before(context: StepContext) -> dict[str, str]:
    """Segments of this step's earlier artifacts by what their rows are."""
    found: dict[str, str] = {}
    for artifact in finished(context.root, context.name):
        if artifact.kind == Attribution.kind:
            for name, info in Attribution(artifact).segments().items():
                found[info.rows] = artifact.path(name)
    return found


def _segment(
    corpus: Corpus, number: int, shards: Sequence[str], before: dict[str, str], output: ArtifactWriter
) -> tuple[SegmentInfo, bool]:
    """Build a segment, or take it over; a finished one of an earlier attempt stays."""
    name = Attribution.segment(number)
    if output.exists(f"{name}/segment.json"):
        return SegmentInfo(**output.read_json(f"{name}/segment.json")), False
    tables = [corpus.table(shard, (*_COLUMNS, "content")) for shard in shards]
    files = pa.concat_tables(
        [
            table.drop(["content"])
            .append_column("shard", pa.array([shard] * table.num_rows, pa.string()))
            .append_column("row", pa.array(range(table.num_rows), pa.int64()))
            for shard, table in zip(shards, tables, strict=True)
        ]
    ).select(FILES.names)
    folder = output.local_folder(name)
    old = before.get(rows_digest(files))
    if old is not None:
        info = _taken_over(old, folder, files)
        if info is not None:
            output.publish(name)
            return info, True
    texts = [text for table in tables for text in table["content"].to_pylist()]
    info = build(folder, texts, files)
    output.publish(name)
    return info, False


def _taken_over(old: str, folder: Path, files: pa.Table) -> SegmentInfo | None:
    """Copy a segment of the same rows, but for where its rows are now; None where it is gone."""
    if not storage.exists(storage.join(old, "segment.json")):
        return None
    source = local_copy(old)
    for name in FILE_NAMES:
        if name not in ("files.parquet", "segment.json"):
            shutil.copyfile(source / name, folder / name)
    pq.write_table(files.cast(FILES), folder / "files.parquet", compression="zstd")
    shutil.copyfile(source / "segment.json", folder / "segment.json")
    return SegmentInfo(**json.loads((folder / "segment.json").read_text(encoding="utf-8")))


def _write_repositories(corpus: Corpus, output: ArtifactWriter) -> None:
    """``repositories.parquet``: what the corpus has of each, sorted by lower case of the name."""
    counts: dict[str, Counter[str]] = {}
    facets: dict[str, dict[str, set[str]]] = {}
    for shard in corpus.shards():
        table = corpus.table(shard, ("repo_name", "language", "licenses", "kind", "content"))
        sizes = pc.binary_length(table["content"]).to_pylist()
        columns = (table[name].to_pylist() for name in ("repo_name", "language", "licenses", "kind"))
        rows = zip(*columns, sizes, strict=True)
        for repository, language, licenses, kind, size in rows:
            count = counts.setdefault(repository, Counter())
            count["files"] += 1
            count["bytes"] += size
            facet = facets.setdefault(repository, {"languages": set(), "licenses": set(), "kinds": set()})
            facet["languages"].add(language or "")
            facet["licenses"].update(licenses or ())
            facet["kinds"].add(kind)
    names = sorted(counts, key=lambda name: (name.lower(), name))
    table = pa.table(
        {
            "owner": [name.split("/", 1)[0] for name in names],
            "repo_name": names,
            **{key: [counts[name][key] for name in names] for key in ("files", "bytes")},
            **{key: [sorted(facets[name][key]) for name in names] for key in ("licenses", "languages", "kinds")},
        },
        schema=Attribution.REPOSITORIES_SCHEMA,
    )
    output.write_table(Attribution.REPOSITORIES, table)


STEP = Step(
    config=IndexConfig,
    run=run,
    produces=Attribution.kind,
    consumes={Corpus.kind: Count.ONE},
    reads={Corpus.kind: (data_file(""),)},
)

if __name__ == "__main__":
    main(STEP)
