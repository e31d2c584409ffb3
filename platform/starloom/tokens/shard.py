"""One token shard: ``NAME.bin`` holds little-endian ids, ``NAME.idx`` the int64 offsets of its documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from starloom.artifact import ArtifactWriter
from starloom.errors import RunError, UserError

OPEN = 256  # maps of a process at a time: each holds a file open, and systems allow 1,024


@dataclass(frozen=True)
class TokenShard:
    """A memory-mapped shard; files are opened when they are read, and no more than `OPEN` at a time."""

    stem: Path  # without .bin and .idx
    dtype: str

    @cached_property
    def size(self) -> int:
        """The number of tokens, from the size of the file."""
        return _items(self._path(".bin"), self._ids)

    @property
    def tokens(self) -> np.ndarray:
        """All ids, one after the other: `dtype` [tokens]."""
        return self._mapped(".bin", self._ids)

    @property
    def offsets(self) -> np.ndarray:
        """int64, one more than there are documents: document i is tokens[offsets[i]:offsets[i + 1]]."""
        return self._mapped(".idx", np.dtype("<i8"))

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.offsets) - 1

    def document(self, number: int) -> np.ndarray:
        """The ids of one document, its end-of-text included: `dtype` [length]."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    @property
    def _ids(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")

    def _mapped(self, suffix: str, dtype: np.dtype[Any]) -> np.ndarray:
        path = self._path(suffix)
        if not _items(path, dtype):
            return np.empty(0, dtype=dtype)
        status = path.stat()
        return _opened(path, dtype, (status.st_ino, status.st_mtime_ns, status.st_size))

    def _path(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)


def _items(path: Path, dtype: np.dtype[Any]) -> int:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; pack the corpus again") from None
    if size % dtype.itemsize:
        raise RunError(f"{path}: {size} bytes is no multiple of {dtype.itemsize}; the shard is damaged")
    return size // dtype.itemsize


@lru_cache(maxsize=OPEN)
def _opened(path: Path, dtype: np.dtype[Any], state: tuple[int, ...]) -> np.ndarray:
    """The map of a file as it is now: a file that was written anew has another state."""
    return np.memmap(path, dtype=dtype, mode="r")


@dataclass
class TokenShardWriter:
    """Collects documents and writes both files, the index last."""

    dtype: str

    def write(self, output: ArtifactWriter, stem: str, documents: Sequence[np.ndarray]) -> None:
        """Write ``stem.bin`` and ``stem.idx`` from documents of ids, each [length] of any type of integers."""
        lengths = np.fromiter((len(document) for document in documents), dtype="<i8", count=len(documents))
        offsets = np.zeros(len(documents) + 1, dtype="<i8")
        np.cumsum(lengths, out=offsets[1:])
        with output.create(f"{stem}.bin") as file:
            for document in documents:
                file.write(document.astype(np.dtype(self.dtype).newbyteorder("<"), copy=False).tobytes())
        with output.create(f"{stem}.idx") as file:
            file.write(offsets.tobytes())
