"""Pickles in a compressed file: what walks write down, a few thousand files at a time."""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

COMPRESSION = "zstd"  # a third of the time that gzip's fastest level takes


class PickleFile:
    """A file that takes one object after another."""

    def __init__(self, path: Path | str) -> None:
        """`OSError` where it cannot be made."""
        self._stream = pa.output_stream(str(path), compression=COMPRESSION)

    def add(self, value: Any) -> None:
        """Write one; `OSError` when the disk does not take it."""
        self._stream.write(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))

    def close(self) -> None:
        """Write what is left; `OSError` when the disk does not take it."""
        self._stream.close()


def unpickled(path: Path | str) -> Iterator[Any]:
    """The objects of such a file; whatever its damage makes pickle or the decompressor raise is raised."""
    with pa.input_stream(str(path), compression=COMPRESSION) as stream:
        file = io.BufferedReader(stream, 1 << 20)
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return
