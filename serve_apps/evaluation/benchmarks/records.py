"""Benchmark files: JSON lines, plain or gzipped, from a path, an installed package or the Hugging Face hub."""

from collections.abc import Callable, Iterable
from pathlib import Path

from starloom import jsonlines
from starloom.errors import UserError, one_line
from starloom.jsonlines import Record


def read_records(
    path: str | Path, required: Iterable[str], check: Callable[[Record], None] = lambda record: None
) -> list[Record]:
    """Objects of a JSON-lines file, plain or gzipped; `check` sees each before its fields are asked for.

    Raises:
        UserError: no such file, a broken line, or a record without a required field (or an empty one); with its line.
    """
    records = []
    for where, record in jsonlines.read(path):
        check(record)
        for key in required:
            if key not in record:
                raise UserError(f"{where}: lacks the field {key!r}")
            if not record[key] and key in ("test", "tests", "test_list"):
                raise UserError(f"{where}: has no tests (its field {key!r} is empty)")
        records.append(record)
    if not records:
        raise UserError(f"{path}: holds no task")
    return records


def hub_records(repository: str, subset: str | None, split: str, required: Iterable[str]) -> list[Record]:
    """Records of a data set on the Hugging Face hub, as the package `datasets` reads them.

    Raises:
        UserError: the package is not installed, or the hub does not give the data.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"{repository}: give a local file with --data, or pip install datasets to fetch it from the hub"
        ) from None
    try:
        rows = [dict(row) for row in load_dataset(repository, subset, split=split)]
    except Exception as error:  # noqa: BLE001 - the library raises many kinds for "cannot be had"
        reason = one_line(error, 200)
        raise UserError(f"{repository}: cannot be fetched from the hub ({reason}); give a local file") from None
    for number, row in enumerate(rows):
        for key in required:
            if key not in row:
                raise UserError(f"{repository}: record {number} lacks the field {key!r}")
    return rows
