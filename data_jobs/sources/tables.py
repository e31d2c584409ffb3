"""Rows of exported tables: Parquet and JSON lines with the column names of The Stack v1, v2 or our own corpus."""

import io
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from data_jobs.sources.entries import UNIT_BYTES, Independent, Item, Limits, Listed, Refusal, Refused, Spill
from data_jobs.sources.packed import json_records, line_record, packing_of, unpacked
from starloom import storage
from starloom.config import Config, added
from starloom.content import files_state
from starloom.errors import UserError, one_line
from starloom.schema import KINDS
from starloom.storage import file_state, matching_files, printable

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
    "encoding": ("src_encoding", "encoding"),
    "blob_id": ("blob_id", "swhid"),
}
FILES_COLUMN = "files"
BATCH_ROWS = 200
LARGEST_GROUP = 32 << 20  # bytes of a row group, unpacked, that are read at once; a larger one is cut
_HIVE = re.compile(r"^([A-Za-z_]\w*)=([^/]*)$")


class TableSource(Config, Independent):
    """What Parquet and JSON sources have in common."""

    path: str
    columns: dict[str, str] = {}  # our column = theirs, where the names are not known ones; dots go into structures
    repo_name: str | None = None  # for rows that name none
    licenses: tuple[str, ...] = ()
    use_language: bool = False  # trust the table's language names instead of the paths'
    label: str | None = added(None)  # what `source` calls its rows, so that training can weigh them; None: the kind
    contents: str | None = None  # where the texts of rows with blob ids are, such as s3://softwareheritage/content


class ParquetSource(TableSource):
    """Parquet files: a path, a folder, a glob pattern or a URL (``s3://``, ``hf://datasets/...``)."""

    kind: Literal["parquet"] = "parquet"

    def places(self, state: Any = None) -> list["ParquetPlace"]:
        """The files."""
        return [ParquetPlace(self, location) for location in _files(self.path, (".parquet",), "Parquet file")]

    def state(self) -> Any:
        """Name, size and digest of each file."""
        return files_state(_files(self.path, (".parquet",), "Parquet file"))

    def timed(self) -> Any:
        """The state of before: names, sizes and times."""
        return file_state(_files(self.path, (".parquet",), "Parquet file"))


class JsonLinesSource(TableSource):
    """JSON lines or arrays of JSON, plain or packed (gzip, bzip2, xz, zstd): a path, a folder, a pattern or a URL."""

    kind: Literal["jsonl"] = "jsonl"

    def places(self, state: Any = None) -> list["JsonPlace"]:
        """The files."""
        return [JsonPlace(self, location) for location in _files(self.path, JSON_SUFFIXES, "JSON lines file")]

    def state(self) -> Any:
        """Name, size and digest of each file."""
        return files_state(_files(self.path, JSON_SUFFIXES, "JSON lines file"))

    def timed(self) -> Any:
        """The state of before: names, sizes and times."""
        return file_state(_files(self.path, JSON_SUFFIXES, "JSON lines file"))


JSON_SUFFIXES = tuple(
    f".{name}{packing}" for name in ("jsonl", "json", "ndjson") for packing in ("", ".gz", ".bz2", ".xz", ".zst")
)


def _files(path: str, suffixes: tuple[str, ...], what: str) -> list[str]:
    """The files that a setting names; of a folder those below it that have the suffix."""
    found: list[str] = []
    for name in matching_files(path, setting="sources", what=what):
        if storage.is_folder(name):
            below = (storage.join(name, one) for one, _ in storage.files_below(name))
            found += [one for one in below if one.lower().endswith(suffixes)]
        else:
            found.append(name)
    if not found:
        raise UserError(f"sources: {path!r}: no {what} below it; give a path, a glob pattern or a URL")
    return sorted(found)


@dataclass(frozen=True)
class ParquetPlace:
    """One Parquet file."""

    source: ParquetSource
    location: str

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """A unit per row group; a large one is read once, in slices, and spilled."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        source, location = self.source, self.location
        with storage.open_steady(location) as file:
            try:
                table = pq.ParquetFile(file)
                metadata, names = table.metadata, set(table.schema_arrow.names)
            except MemoryError:  # Arrow's is one of its exceptions too, and the machine's fault
                raise
            except (pa.ArrowException, OSError, ValueError) as error:
                yield Refused(_refused_file(location, "damaged_parquet", str(error)))
                return
        missing = _missing_content(source, names)
        if missing:
            yield Refused(_refused_file(location, "no_content_column", f"{metadata.num_rows} rows {missing}"))
            return
        row = 0
        for group in range(metadata.num_row_groups):
            described = metadata.row_group(group)
            unit = RowGroup(source, location, group, row, described.total_byte_size)
            if described.total_byte_size > LARGEST_GROUP:
                yield from replace(spill, folder=f"{spill.folder}-{group:06d}").units(unit.read(limits))
            else:
                yield unit
            row += described.num_rows


def _missing_content(source: TableSource, names: set[str]) -> str:
    """Why rows with these columns can give no text; empty when they can."""
    tops = {name.partition(".")[0] for name in _choices(source, "content")}
    if names & (tops | {FILES_COLUMN}):
        return ""
    if names & set(_choices(source, "blob_id")):
        if source.contents:
            return ""
        return "have ids of contents and no texts; give contents = 's3://softwareheritage/content' or a copy of it"
    return f"without a column {' or '.join(sorted(tops))}; name it in columns"


@dataclass(frozen=True)
class JsonPlace:
    """One file of JSON."""

    source: JsonLinesSource
    location: str

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """A unit per range of bytes; what is packed, or one array, cannot be cut: it is read once, and spilled."""
        with storage.open_steady(self.location) as raw:
            size = raw.seek(0, io.SEEK_END)
            raw.seek(0)
            head = raw.read(4096)
        if packing_of(head) or head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
            yield from spill.units(self._records(limits))
            return
        for start in range(0, size, UNIT_BYTES):
            yield JsonLines(self.source, self.location, start, min(size, start + UNIT_BYTES))

    def _records(self, limits: Limits) -> Iterator[Item | Refusal]:
        name, repo_name = PurePosixPath(self.location).name, self.source.repo_name or "unknown"
        for place, found in json_records(self.location, name, repo_name):
            if isinstance(found, Refusal):
                yield found
            else:
                yield from records(found, self.source, self.location, place, limits)


@dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file."""

    source: ParquetSource
    location: str
    group: int
    first_row: int
    size: int
    scope: str = ""

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """The rows in their order; from a damaged page on they are one refusal."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with storage.open_steady(self.location) as file:
            number = self.first_row
            try:
                # without a buffer of its own Arrow would unpack the whole group at once
                table = pq.ParquetFile(file, buffer_size=1 << 20)
                names = set(table.schema_arrow.names)
                wanted = [name for name in _wanted(self.source) if name.partition(".")[0] in names]
                for batch in table.iter_batches(BATCH_ROWS, row_groups=[self.group], columns=wanted):
                    for position in range(batch.num_rows):
                        yield from self._row(batch, position, number, limits)
                        number += 1
            except MemoryError:
                raise
            except (pa.ArrowException, OSError, ValueError) as error:
                yield _refused_file(self.location, "damaged_parquet", f"from row {number}: {error}")

    def _row(self, batch: Any, position: int, number: int, limits: Limits) -> Iterator[Item | Refusal]:
        try:
            (row,) = batch.slice(position, 1).to_pylist()
        except (ValueError, OverflowError) as error:  # text that is no UTF-8, a date that no calendar has
            yield Refusal(
                self.source.repo_name or "unknown",
                f"{PurePosixPath(self.location).name}:row-{number}",
                "unreadable_row",
                one_line(f"{type(error).__name__}: {error}", 200),
            )
            return
        yield from records(row, self.source, self.location, f"row-{number}", limits)


@dataclass(frozen=True)
class JsonLines:
    """The lines that begin in a range of bytes of one file that is not packed."""

    source: JsonLinesSource
    location: str
    start: int
    end: int
    scope: str = ""

    @property
    def size(self) -> int:
        """Bytes of the range."""
        return self.end - self.start

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """The records in their order; a line that is no JSON object is refused, by its byte offset."""
        name, repo_name = PurePosixPath(self.location).name, self.source.repo_name or "unknown"
        with storage.open_steady(self.location) as file:
            at = self.start
            if at > 0:
                # the line that runs across the start belongs to the range before
                file.seek(at - 1)
                at += len(file.readline()) - 1
            while at < self.end and (line := file.readline()):
                place, at = f"byte-{at}", at + len(line)
                line = line.removeprefix(b"\xef\xbb\xbf") if place == "byte-0" else line
                if line.strip():
                    found = line_record(line, name, place, repo_name)
                    if isinstance(found, Refusal):
                        yield found
                    else:
                        yield from records(found, self.source, self.location, place, limits)


def records(
    row: Mapping[str, Any], source: TableSource, location: str, name: str, limits: Limits
) -> Iterator[Item | Refusal]:
    """What one row holds: a file, or the files of a repository in a list (column ``files``, as in The Stack v2)."""
    row = {**partitions_of(location), **row}
    files = row.get(FILES_COLUMN)
    if not isinstance(files, list) or _value(row, source, "content") is not None:
        yield record(row, source, location, name, limits)
        return
    for number, file in enumerate(files):
        if isinstance(file, Mapping):
            yield record({**row, FILES_COLUMN: None, **file}, source, location, f"{name}.{number}", limits)
        else:
            where = f"{PurePosixPath(location).name}:{name}.{number}"
            yield Refusal(source.repo_name or "unknown", where, "not_an_object", type(file).__name__)


def partitions_of(location: str) -> dict[str, str]:
    """Columns that the folders of a path tell (``language=Python/part-0.parquet``), as Hive writes them."""
    found = (_HIVE.match(part) for part in PurePosixPath(location).parent.parts)
    return {match[1]: unquote(match[2]) for match in found if match and match[2] != "__HIVE_DEFAULT_PARTITION__"}


def record(row: Mapping[str, Any], source: TableSource, location: str, name: str, limits: Limits) -> Item | Refusal:
    """One row as an item; a value of another type than ours is refused: nobody knows what it would have meant."""
    found = {ours: _value(row, source, ours) for ours in COLUMNS}
    repo_name = found["repo_name"] if isinstance(found["repo_name"], str) else source.repo_name or "unknown"
    path = found["path"] if isinstance(found["path"], str) else f"{PurePosixPath(location).name}:{name}"

    def refuse(reason: str, detail: str) -> Refusal:
        return Refusal(repo_name, path, reason, detail)

    kind = "file" if found["kind"] is None else found["kind"]
    if kind not in KINDS:
        return refuse("unknown_kind", f"kind is {_shown(kind)}, none of {', '.join(KINDS)}")
    stars = _whole_number(found["stars"])
    if isinstance(stars, str):
        return refuse("invalid_value", f"stars is {stars}")
    content = found["content"]
    if content is None and found["blob_id"] is not None:
        content = _fetched(found, source, limits.of(path))
    if content is None:
        return refuse("no_content", "the row has no text")
    if isinstance(content, Refusal):
        return refuse(content.reason, content.detail)
    if not isinstance(content, str | bytes):
        return refuse("not_text", f"content is {type(content).__name__}")
    if len(content) > limits.of(path):
        return refuse("too_large", f"{len(content)} characters, limit {limits.of(path)}")
    return Item(
        repo_name=repo_name,
        path=path,
        content=content,
        licenses=source.licenses or _strings(found["licenses"]),
        stars=stars,
        commit=found["commit"] if isinstance(found["commit"], str) else None,
        source=source.label or str(getattr(source, "kind", "")),
        kind=str(kind),
        language=found["language"] if source.use_language and isinstance(found["language"], str) else None,
        encoding=found["encoding"] if isinstance(found["encoding"], str) else None,
    )


def _fetched(found: Mapping[str, Any], source: TableSource, limit: int) -> bytes | Refusal:
    """The content of a blob id (SWHID ``swh:1:cnt:...``, or its hash alone), packed or not, from the given bucket."""
    blob = str(found["blob_id"]).removeprefix("swh:1:cnt:").split(";", 1)[0]
    if not re.fullmatch(r"[0-9a-f]{40}", blob):
        return Refusal("", "", "invalid_value", f"blob_id {blob[:60]!r} is no hash of a content")
    if not source.contents:
        return Refusal("", "", "no_content", "the row has an id and no text; give contents = where they are")
    location = storage.join(source.contents, blob)
    if not storage.exists(location):
        return Refusal("", "", "no_content", f"there is no {blob} in {source.contents}")
    with storage.open_steady(location) as raw:
        try:
            return unpacked(raw).read(limit + 1)
        except (EOFError, OSError, ValueError, zlib.error) as error:
            return Refusal("", "", "damaged_content", one_line(error, 200))


def _choices(source: TableSource, ours: str) -> tuple[str, ...]:
    return (source.columns[ours],) if ours in source.columns else COLUMNS[ours]


def _wanted(source: TableSource) -> list[str]:
    """Every name that a column could have."""
    return [FILES_COLUMN, *(choice for ours in COLUMNS for choice in _choices(source, ours))]


def _value(row: Mapping[str, Any], source: TableSource, ours: str) -> Any:
    for name in _choices(source, ours):
        if name in row:
            return row[name]
        value: Any = row
        for step in name.split(".") if "." in name else ():
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not row and value is not None:
            return value
    return None


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(entry for entry in value if isinstance(entry, str))
    return ()


def _whole_number(value: Any) -> int | str | None:
    """The number, None where there is none, or what stands in its place."""
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _shown(value)
    if not -(2**63) <= value < 2**63:
        return f"{value:.3g}"
    return int(value)


def _shown(value: Any) -> str:
    return one_line(printable(repr(value)), 60)


def _refused_file(location: str, reason: str, detail: str) -> Refusal:
    return Refusal("unknown", PurePosixPath(location).name, reason, one_line(detail, 200))
