"""The work of `data_jobs.collect`: list, cut into shards of equal bytes, read each shard in a task of its own."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_jobs.collect import CollectConfig
from data_jobs.languages import Languages, extension_of, load_languages
from data_jobs.listing import list_source
from data_jobs.shards import map_shards, shard_name
from data_jobs.sources.entries import Entry, Refusal
from starloom.artifact import ArtifactWriter
from starloom.errors import UserError
from starloom.schema import CORPUS, DROPPED
from starloom.step import Outcome, StepContext

STAGE = "collect"
_WORK = ".work"  # hidden: the parts of dropped.parquet until the step is done


@dataclass(frozen=True)
class Shard:
    """A run of entries that becomes one Parquet file."""

    name: str
    entries: tuple[Entry, ...]


def collect(config: CollectConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.collect`."""
    listings = [list_source(source) for source in config.sources]
    entries = [entry for listing in listings for entry in listing.entries]
    refusals = [refusal for listing in listings for refusal in listing.refusals]
    seen = len(entries) + len(refusals)
    if not entries:
        raise UserError("sources: no files were found; check the paths and the exclude patterns")
    shards = list(cut(entries, shard_bytes=int(config.shard_megabytes * 1e6)))
    context.say(f"{seen:,} files, {sum(e.size for e in entries) / 1e6:,.1f} MB, {len(shards)} shards")
    languages = load_languages(config.languages)

    def work(shard: Shard) -> int:
        return collect_shard(shard, languages, config.max_file_bytes, context.output)

    rows = map_shards(shards, work, name="collect")
    dropped = _merge_dropped(shards, refusals, context.output)
    counts = Counter(dropped["reason"].to_pylist())
    if not sum(rows):
        raise UserError(f"sources: none of {seen:,} files came in ({_most(counts)}); check the paths")
    context.output.remove(_WORK)
    return Outcome(rows_in=seen, rows_out=sum(rows), dropped=dict(sorted(counts.items())))


def cut(entries: Sequence[Entry], *, shard_bytes: int) -> Iterator[Shard]:
    """Cut a listing into shards of about `shard_bytes`, in its order."""
    part: list[Entry] = []
    size = number = 0
    for entry in entries:
        if part and size + entry.size > shard_bytes:
            yield Shard(shard_name(number), tuple(part))
            part, size, number = [], 0, number + 1
        part.append(entry)
        size += entry.size
    if part:
        yield Shard(shard_name(number), tuple(part))


def collect_shard(shard: Shard, languages: Languages, max_file_bytes: int, output: ArtifactWriter) -> int:
    """Read one shard's files and write its table; returns its rows. A finished shard is left as it is."""
    name, dropped_name = f"data/{shard.name}", f"{_WORK}/{shard.name}"
    if output.exists(name) and output.exists(dropped_name):
        return _rows(output, name)
    records, refusals = [], []
    for entry in shard.entries:
        outcome = read_entry(entry, languages, max_file_bytes)
        if isinstance(outcome, Refusal):
            refusals.append(outcome)
        else:
            records.append(outcome)
    output.write_table(dropped_name, _refused_table(refusals))
    output.write_table(name, pa.Table.from_pylist(records, schema=CORPUS), row_group_rows=1000)
    return len(records)


def read_entry(entry: Entry, languages: Languages, max_file_bytes: int) -> dict[str, object] | Refusal:
    """One file as a corpus record, or why it does not come in."""

    def refuse(reason: str, detail: str = "") -> Refusal:
        return Refusal(entry.repo_name, entry.path, reason, detail)

    if entry.size > max_file_bytes:
        return refuse("too_large", f"{entry.size} bytes, limit {max_file_bytes}")
    try:
        content = Path(entry.location).read_bytes()
    except OSError as error:
        return refuse("unreadable", error.strerror or type(error).__name__)
    if len(content) > max_file_bytes:
        return refuse("too_large", f"{len(content)} bytes, limit {max_file_bytes}")
    if not content:
        return refuse("empty")
    if b"\0" in content:
        return refuse("binary", "holds a NUL byte")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return refuse("not_utf8", f"byte {error.start}")
    language = languages.of_path(entry.path) or languages.of_content(text)
    if language is None:
        return refuse("unknown_language", extension_of(entry.path))
    return {
        "id": hashlib.sha256(content).hexdigest(),
        "repo_name": entry.repo_name,
        "path": entry.path,
        "language": language,
        "licenses": list(entry.licenses),
        "stars": entry.stars,
        "commit": entry.commit,
        "source": entry.source,
        "kind": "file",
        "content": text,
    }


def _refused_table(refusals: Sequence[Refusal]) -> pa.Table:
    rows = [
        {"id": None, "repo_name": r.repo_name, "path": r.path, "stage": STAGE, "reason": r.reason, "detail": r.detail}
        for r in refusals
    ]
    return pa.Table.from_pylist(rows, schema=DROPPED)


def _merge_dropped(shards: Sequence[Shard], refusals: Sequence[Refusal], output: ArtifactWriter) -> pa.Table:
    import pyarrow.parquet as pq

    tables = [_refused_table(refusals)]
    for shard in shards:
        with output.open_file(f"{_WORK}/{shard.name}") as file:
            tables.append(pq.read_table(file))
    order = [("repo_name", "ascending"), ("path", "ascending"), ("reason", "ascending")]
    merged = pa.concat_tables(tables).sort_by(order)
    output.write_table("dropped.parquet", merged)
    return merged


def _rows(output: ArtifactWriter, name: str) -> int:
    import pyarrow.parquet as pq

    with output.open_file(name) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))
