"""One segment of an index: built from rows, opened for look-ups; `starloom.segmentfiles` names its files."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from starloom.attribution import kernel
from starloom.attribution.lexing import keyword_table, style_of
from starloom.errors import RunError, UserError
from starloom.segmentfiles import ARRAYS, FILES, VERSION, SegmentInfo, rows_digest

LARGEST = (1 << 32) - 1  # bytes of text: positions are uint32
AROUND, LINES = 3, 60  # of an excerpt
LONG = 400  # characters of a line that are shown


@dataclass(frozen=True)
class Level:
    """Postings of one level, memory-mapped."""

    bits: int
    directory: np.ndarray
    tags: np.ndarray
    positions: np.ndarray
    contexts: np.ndarray  # of the solid level; else empty


def build(folder: Path, texts: Sequence[str], files: pa.Table) -> SegmentInfo:
    """Write a segment of rows: their texts, and as many rows of `FILES`.

    Raises:
        UserError: the text is larger than a segment can be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    starts = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=starts[1:])
    size = int(starts[-1])
    if size > LARGEST:
        raise UserError(f"segment_megabytes: {size:,} bytes are more than the {LARGEST:,} of a segment; lower it")
    data = np.frombuffer(b"".join(encoded), np.uint8)
    arrays: dict[str, np.ndarray] = {"text.bin": data, "starts.bin": starts}
    room = size // kernel.SOLID_STRIDE + len(encoded) + 1
    keys, places, context = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.uint8)
    count = kernel.post_solid(data, starts, keys, places, context)
    bits, arrays["solid.dir"], arrays["solid.tag"], order = _packed(keys[:count])
    arrays["solid.pos"], arrays["solid.ctx"] = places[order], context[order]
    del keys, places, context, order
    room = size // kernel.RENAMED_STRIDE + len(encoded) + 1
    keys, places = np.empty(room, np.uint64), np.empty(room, np.int64)
    styles = np.array([style_of(language) for language in files["language"].to_pylist()], np.int64)
    renamed = kernel.post_renamed(data, starts, styles, keyword_table(), keys, places)
    renamed_bits, arrays["renamed.dir"], arrays["renamed.tag"], order = _packed(keys[:renamed])
    arrays["renamed.pos"] = places[order]
    sizes = {}
    for name, array in arrays.items():
        stored = array.astype(ARRAYS[name], copy=False)
        stored.tofile(folder / name)
        sizes[name] = stored.nbytes
    pq.write_table(files.cast(FILES), folder / "files.parquet", compression="zstd")
    info = SegmentInfo(VERSION, len(encoded), size, count, renamed, bits, renamed_bits, rows_digest(files), sizes)
    (folder / "segment.json").write_text(json.dumps(asdict(info), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return info


def _packed(keys: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Bits of the directory, the directory, tags, and the order of postings: by bucket, tag, and place in the text."""
    count = len(keys)
    bits = max(1, math.ceil(math.log2(max(count, 2) / kernel.BUCKET)))
    kept, ordinal = bits + kernel.TAG_BITS, max(1, (count - 1).bit_length())
    tops = keys >> np.uint64(64 - kept)
    if kept + ordinal <= 64:  # one sort of plain integers
        both = np.sort((tops << np.uint64(ordinal)) | np.arange(count, dtype=np.uint64))
        order = (both & np.uint64((1 << ordinal) - 1)).astype(np.int64)
        tops = both >> np.uint64(ordinal)
    else:
        order = np.argsort(tops, kind="stable")
        tops = tops[order]
    directory = np.zeros((1 << bits) + 1, np.int64)
    buckets = (tops >> np.uint64(kernel.TAG_BITS)).astype(np.int64)
    np.cumsum(np.bincount(buckets, minlength=1 << bits), out=directory[1:])
    return bits, directory, (tops & np.uint64(0xFFFF)).astype(np.uint16), order


class Segment:
    """A segment opened for look-ups: its arrays are mapped, its names are read when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises `RunError` when the segment is unfinished, of another version, or a file has another size."""
        self.folder = folder
        try:
            found = json.loads((folder / "segment.json").read_text(encoding="utf-8"))
            self.info = SegmentInfo(**found)
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{folder}: no finished segment; run the index step again ({error})") from None
        if self.info.version != VERSION:
            raise RunError(f"{folder}: version {self.info.version} of the index, this one reads {VERSION}; build anew")
        self.text, self.starts = self._mapped("text.bin"), self._mapped("starts.bin").astype(np.int64)
        directory, tags, positions, contexts = (self._mapped(f"solid.{part}") for part in ("dir", "tag", "pos", "ctx"))
        self.solid = Level(self.info.solid_bits, directory, tags, positions, contexts)
        directory, tags, positions = (self._mapped(f"renamed.{part}") for part in ("dir", "tag", "pos"))
        self.renamed = Level(self.info.renamed_bits, directory, tags, positions, np.empty(0, np.uint8))
        self._files: pa.Table | None = None
        self._styles: np.ndarray | None = None
        self._licenses: list[list[str] | None] | None = None
        self.hidden = np.zeros(self.info.files, np.uint8)  # 1: left out of every answer

    @property
    def files(self) -> pa.Table:
        """Rows of `FILES`, in the order of the text."""
        if self._files is None:
            self._files = pq.read_table(self.folder / "files.parquet", schema=FILES)
        return self._files

    @property
    def licenses(self) -> list[list[str] | None]:
        """The licences of each file."""
        if self._licenses is None:
            self._licenses = self.files["licenses"].to_pylist()
        return self._licenses

    @property
    def styles(self) -> np.ndarray:
        """How each file's comments are written: int64 [files]."""
        if self._styles is None:
            self._styles = np.array([style_of(language) for language in self.files["language"].to_pylist()], np.int64)
        return self._styles

    def lines(self, file: int, first: int, stop: int) -> tuple[int, int]:
        """First and last line, counted from 1, of text[first:stop] within its file."""
        begin = int(self.starts[file])
        line = 1 + int(np.count_nonzero(self.text[begin:first] == 10))
        return line, line + int(np.count_nonzero(self.text[first : max(first, stop - 1)] == 10))

    def excerpt(self, file: int, first: int, stop: int) -> dict[str, Any]:
        """The lines that text[first:stop] stands in and `AROUND` on each side; `LINES` at most, long ones cut.

        Of a long line in which the text begins, the part around it is shown.
        """
        low, high = self.lines(file, first, stop)
        lines = self.text_of(file).split("\n")
        begin = max(0, low - 1 - AROUND)
        shown = lines[begin : min(high + AROUND, begin + LINES)]
        before = bytes(self.text[self.starts[file] : first]).rpartition(b"\n")[2]
        column = len(before.decode("utf-8", "replace"))
        cut = [_cut(line, column if number == low else 0) for number, line in enumerate(shown, start=begin + 1)]
        return {"first_line": begin + 1, "text": "\n".join(cut)}

    def text_of(self, file: int) -> str:
        """A file's whole text."""
        return bytes(self.text[self.starts[file] : self.starts[file + 1]]).decode("utf-8", "surrogatepass")

    def _mapped(self, name: str) -> np.ndarray:
        path, dtype = self.folder / name, np.dtype(ARRAYS[name])
        size = path.stat().st_size if path.is_file() else -1
        if size != self.info.sizes[name]:
            raise RunError(f"{path}: {size:,} bytes, {self.info.sizes[name]:,} were written; the index is damaged")
        return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)


def _cut(line: str, column: int) -> str:
    if len(line) <= LONG:
        return line
    start = max(0, column - LONG // 4)
    return f"{'…' if start else ''}{line[start : start + LONG]}{'…' if start + LONG < len(line) else ''}"
