"""Parquet read through a handle of Python's, by the thread that asks alone.

Arrow's threads may be the last to let go of what they read, and one that lets go of a Python object while the
interpreter ends is ended by it, and the whole process with it ("terminate called without an active exception"). What a
command reads before it ends is read here; Ray's workers, which go on, may read with Arrow's threads.
"""

from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq


def read_columns(file: IO[Any], columns: Sequence[str] | None = None) -> pa.Table:
    """A whole file, or some of its columns in the order that they are named.

    Raises:
        KeyError: it has no such column.
    """
    table = pq.ParquetFile(file, pre_buffer=False).read(
        columns=None if columns is None else list(columns), use_threads=False
    )
    return table if columns is None else table.select(list(columns))


def record_batches(file: IO[Any]) -> Iterator[pa.RecordBatch]:
    """Its rows, some thousands at a time."""
    yield from pq.ParquetFile(file, pre_buffer=False).iter_batches(use_threads=False)
