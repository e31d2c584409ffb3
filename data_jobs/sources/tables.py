"""Rows of exported tables: Parquet and JSON lines with the column names of The Stack v1, v2 or our own corpus."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal

from data_jobs.sources.entries import UNIT_BYTES, Item, Listing, Refusal
from starloom import storage
from starloom.config import Config
from starloom.errors import one_line
from starloom.schema import KINDS
from starloom.storage import file_state, matching_files

# our column <- what The Stack v1 and v2 and common exports call it, best first
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "content": ("content", "text", "code"),
    "repo_name": ("repo_name", "max_stars_repo_name", "repository_name", "repo"),
    "path": ("path", "max_stars_repo_path", "file_path", "filename"),
    "language": ("language", "lang", "programming_language"),
    "licenses": ("licenses", "max_stars_repo_licenses", "detected_licenses", "license"),
    "stars": ("stars", "max_stars_count", "star_events_count"),
    "commit": ("commit", "revision_id", "max_stars_repo_head_hexsha", "head_hexsha"),
    "kind": ("kind",),
}
BATCH_ROWS = 200


class ParquetSource(Config):
    """Parquet files: a path, a glob pattern or a URL (``s3://``, ``hf://datasets/...``)."""

    kind: Literal["parquet"] = "parquet"
    path: str
    columns: dict[str, str] = {}  # our column = theirs, where the names are not known ones
    repo_name: str | None = None  # for rows that name none
    licenses: tuple[str, ...] = ()
    use_language: bool = False  # trust the table's language names instead of the paths'

    def listing(self, state: Any = None) -> Listing:
        """One unit per row group."""
        listing = Listing()
        for location in matching_files(self.path, setting="sources", what="Parquet file"):
            _list_parquet(self, location, listing)
        return listing

    def state(self) -> Any:
        """Name, size and time of change of each file."""
        return file_state(matching_files(self.path, setting="sources", what="Parquet file"))


class JsonLinesSource(Config):
    """JSON lines, plain or ``.gz``: a path, a glob pattern or a URL."""

    kind: Literal["jsonl"] = "jsonl"
    path: str
    columns: dict[str, str] = {}
    repo_name: str | None = None
    licenses: tuple[str, ...] = ()
    use_language: bool = False

    def listing(self, state: Any = None) -> Listing:
        """One unit per range of bytes; a compressed file cannot be cut and is one unit."""
        listing = Listing()
        for location in matching_files(self.path, setting="sources", what="JSON lines file"):
            size = file_state([location])[0][1]
            step = max(size, 1) if location.endswith(".gz") else UNIT_BYTES
            for start in range(0, size, step):
                listing.units.append(JsonLines(self, location, start, min(size, start + step)))
        return listing

    def state(self) -> Any:
        """Name, size and time of change of each file."""
        return file_state(matching_files(self.path, setting="sources", what="JSON lines file"))


@dataclass(frozen=True)
class RowGroup:
    """A run of row groups of one Parquet file."""

    source: ParquetSource
    location: str
    group: int
    first_row: int
    size: int

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """The rows in their order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with storage.open_file(self.location) as file:
            number = self.first_row
            try:
                table = pq.ParquetFile(file)
                names = set(table.schema_arrow.names)
                wanted = [name for name in _names(self.source).values() if name in names]
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[self.group], columns=wanted):
                    for row in batch.to_pylist():
                        yield record(row, self.source, self.location, f"row-{number}", max_file_bytes)
                        number += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                yield _refused_file(self.location, "damaged_parquet", f"from row {number}: {error}")


@dataclass(frozen=True)
class JsonLines:
    """The lines that begin in a range of bytes of one file."""

    source: JsonLinesSource
    location: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the range, compressed where the file is."""
        return self.end - self.start

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """The records in their order; a line that is no JSON object is refused, by its byte offset."""
        try:
            with storage.open_file(self.location) as raw:
                yield from self._lines(raw, max_file_bytes)
        except (EOFError, zlib.error, OSError) as error:
            yield _refused_file(self.location, "damaged_gzip", str(error))

    def _lines(self, raw: IO[bytes], max_file_bytes: int) -> Iterator[Item | Refusal]:
        packed = self.location.endswith(".gz")
        file: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        at = 0 if packed else self.start
        if at > 0:
            # the line that runs across the start belongs to the range before
            file.seek(at - 1)
            at += len(file.readline()) - 1
        while (packed or at < self.end) and (line := file.readline()):
            name, at = f"byte-{at}", at + len(line)
            if line.strip():
                yield self._record(line, name, max_file_bytes)

    def _record(self, line: bytes, name: str, max_file_bytes: int) -> Item | Refusal:
        where = f"{PurePosixPath(self.location).name}:{name}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Refusal(self.source.repo_name or "unknown", where, "invalid_json", one_line(error, 200))
        if not isinstance(row, dict):
            return Refusal(self.source.repo_name or "unknown", where, "not_an_object", type(row).__name__)
        return record(row, self.source, self.location, name, max_file_bytes)


def record(
    row: Mapping[str, Any], source: ParquetSource | JsonLinesSource, location: str, name: str, max_file_bytes: int
) -> Item | Refusal:
    """One row as an item; a column of another type than ours is refused or, where it is no text, left out."""
    found = {ours: row.get(theirs) for ours, theirs in _names(source, row).items()}
    repo_name = found["repo_name"] if isinstance(found["repo_name"], str) else source.repo_name or "unknown"
    path = found["path"] if isinstance(found["path"], str) else f"{PurePosixPath(location).name}:{name}"
    content = found["content"]
    if content is None:
        return Refusal(repo_name, path, "no_content", "the row has no text")
    if not isinstance(content, str | bytes):
        return Refusal(repo_name, path, "not_text", f"content is {type(content).__name__}")
    if len(content) > max_file_bytes:
        return Refusal(repo_name, path, "too_large", f"{len(content)} characters, limit {max_file_bytes}")
    kind = found["kind"] if found["kind"] in KINDS else "file"
    return Item(
        repo_name=repo_name,
        path=path,
        content=content,
        licenses=source.licenses or _strings(found["licenses"]),
        stars=_whole_number(found["stars"]),
        commit=found["commit"] if isinstance(found["commit"], str) else None,
        source=source.kind,
        kind=str(kind),
        language=found["language"] if source.use_language and isinstance(found["language"], str) else None,
    )


def _names(source: ParquetSource | JsonLinesSource, row: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Our column -> theirs; without a row, every name that a column could have is kept apart by a suffix."""
    names: dict[str, str] = {}
    for ours, known in COLUMNS.items():
        choices = (source.columns[ours],) if ours in source.columns else known
        if row is None:
            names |= {f"{ours}:{choice}": choice for choice in choices}
        else:
            names[ours] = next((choice for choice in choices if choice in row), choices[0])
    return names


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(entry for entry in value if isinstance(entry, str))
    return ()


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return int(value)


def _list_parquet(source: ParquetSource, location: str, listing: Listing) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage.open_file(location) as file:
            table = pq.ParquetFile(file)
            metadata, names = table.metadata, set(table.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        listing.refusals.append(_refused_file(location, "damaged_parquet", str(error)))
        return
    content = (source.columns["content"],) if "content" in source.columns else COLUMNS["content"]
    if not names.intersection(content):
        why = f"{metadata.num_rows} rows without a column {' or '.join(content)}; name it in columns"
        listing.refusals.append(_refused_file(location, "no_content_column", why))
        return
    row = 0
    for group in range(metadata.num_row_groups):
        described = metadata.row_group(group)
        listing.units.append(RowGroup(source, location, group, row, described.total_byte_size))
        row += described.num_rows


def _refused_file(location: str, reason: str, detail: str) -> Refusal:
    return Refusal("unknown", PurePosixPath(location).name, reason, one_line(detail, 200))
