"""The files of one segment of an index: consecutive rows of a corpus, their text, and the postings of both levels.

``text.bin`` is the UTF-8 of the rows one after the other; ``starts.bin`` uint32 [files + 1] where each begins. A level
is ``.dir`` uint32 [2^bits + 1] (buckets by the first bits of a window's hash), ``.tag`` uint16 (the next 16 bits),
``.pos`` uint32 (the window's first byte) and, of the solid level, ``.ctx`` uint8. All are little-endian.
``files.parquet`` names the rows; ``segment.json`` is written last. Imports no compiled loops.
"""

import hashlib
from dataclasses import dataclass

import pyarrow as pa

VERSION = 1
FILES = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("repo_name", pa.string()),
        pa.field("path", pa.string()),
        pa.field("language", pa.string()),
        pa.field("licenses", pa.list_(pa.string())),
        pa.field("kind", pa.string()),
        pa.field("commit", pa.string()),
    ]
)
ARRAYS = {
    "text.bin": "<u1", "starts.bin": "<u4",
    "solid.dir": "<u4", "solid.tag": "<u2", "solid.ctx": "<u1", "solid.pos": "<u4",
    "renamed.dir": "<u4", "renamed.tag": "<u2", "renamed.pos": "<u4",
}  # fmt: skip
FILE_NAMES = (*ARRAYS, "files.parquet", "segment.json")


@dataclass(frozen=True)
class SegmentInfo:
    """``segment.json``."""

    version: int
    files: int
    bytes: int
    solid: int  # postings
    renamed: int
    solid_bits: int
    renamed_bits: int
    rows: str  # SHA-256 over what the rows are: (id, repo_name, path, language) in order
    sizes: dict[str, int]  # of the arrays, bytes


def rows_digest(files: pa.Table) -> str:
    """What tells a segment's rows from others': ids tell the text, languages how comments are told."""
    digest = hashlib.sha256()
    for name in ("id", "repo_name", "path", "language"):
        for value in files[name].to_pylist():
            digest.update(f"{value}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
