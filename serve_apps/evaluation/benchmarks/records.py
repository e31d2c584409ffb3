"""Benchmark files: JSON lines, plain or gzipped, from a path, an installed package or the Hugging Face hub."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starloom.errors import UserError

Record = dict[str, Any]


def read_records(path: str | Path, required: Iterable[str]) -> list[Record]:
    """Objects of a JSON-lines file.

    Raises:
        UserError: no such file, a broken line, or a record without a required field (or an empty one); with its line.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from None
        for key in required:
            if not isinstance(record, dict) or key not in record:
                raise UserError(f"{path}: line {number} lacks the field {key!r}")
            if not record[key] and key in ("test", "tests", "test_list"):
                raise UserError(f"{path}: line {number} has no tests (its field {key!r} is empty)")
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
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{repository}: cannot be fetched from the hub ({reason}); give a local file") from None
    for number, row in enumerate(rows):
        for key in required:
            if key not in row:
                raise UserError(f"{repository}: record {number} lacks the field {key!r}")
    return rows
