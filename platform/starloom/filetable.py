"""The files of an artifact: few of them stand in its manifest, many in a Parquet table that the manifest names.

A step over terabytes leaves hundreds of thousands of shards. As JSON their names and checksums take seconds to read and
check, each time that anybody asks what the artifact is.
"""

import io
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from starloom import parquet
from starloom.config import Config

FILES = "files.parquet"
MOST_IN_MANIFEST = 10_000
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
    ]
)


class FileEntry(Config):
    """Size and sha256 of one file."""

    bytes: int
    sha256: str


class FileTable(Mapping[str, FileEntry]):
    """The entries of a table by name, each made when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        names, self._sizes = table["name"].to_pylist(), table["bytes"].to_pylist()
        self._rows = dict(zip(names, range(len(names)), strict=True))
        self._sums = table["sha256"]

    def __getitem__(self, name: str) -> FileEntry:
        row = self._rows[name]
        return FileEntry(bytes=self._sizes[row], sha256=self._sums[row].as_py().hex())

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file."""
        return dict(zip(self._rows, self._sizes, strict=True))


def sizes_of(files: Mapping[str, FileEntry]) -> dict[str, int]:
    """Bytes of every file, without making an entry of each."""
    return files.sizes() if isinstance(files, FileTable) else {name: entry.bytes for name, entry in files.items()}


def table_bytes(files: Mapping[str, FileEntry]) -> bytes:
    """The table as a Parquet file, by name."""
    names = sorted(files)
    entries = [files[name] for name in names]
    columns = [names, [entry.bytes for entry in entries], [bytes.fromhex(entry.sha256) for entry in entries]]
    made = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), made, compression="zstd")
    return made.getvalue()


def table_of(content: bytes) -> FileTable:
    """What `table_bytes` made."""
    return FileTable(parquet.read_columns(io.BytesIO(content)))
