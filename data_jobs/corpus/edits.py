"""Edits of a text: replacements of personal data carried out on the rows that stay."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from starloom.errors import RunError
from starloom.schema import CORPUS


def edited(table: pa.Table, edits: pa.Table, alive: np.ndarray) -> pa.Table:
    """The kept rows with their replacements made; a file that was edited gets the id of its new content.

    `table` is of `schema.CORPUS`, `edits` of `schema.EDITS`, `alive` bool [rows of the table].

    Raises:
        RunError: edits overlap or lie outside their text.
    """
    kept = table.filter(pa.array(alive))
    if edits.num_rows == 0:
        return kept
    position = np.cumsum(alive) - 1
    ids, contents = kept["id"].to_pylist(), kept["content"].to_pylist()
    by_row: dict[int, list[tuple[int, int, str]]] = {}
    for edit in edits.to_pylist():
        if alive[edit["row"]]:
            by_row.setdefault(edit["row"], []).append((edit["start"], edit["end"], edit["replacement"]))
    for row, changes in by_row.items():
        at = int(position[row])
        contents[at] = apply_edits(contents[at], changes)
        ids[at] = hashlib.sha256(contents[at].encode()).hexdigest()
    kept = kept.set_column(kept.schema.get_field_index("id"), CORPUS.field("id"), pa.array(ids))
    content = pa.array(contents, pa.large_string())
    return kept.set_column(kept.schema.get_field_index("content"), CORPUS.field("content"), content)


def apply_edits(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Replace the character ranges [start, end) of `text`, given in ascending order.

    Raises:
        RunError: ranges overlap or lie outside the text.
    """
    parts, at = [], 0
    for start, end, replacement in edits:
        if start < at or end < start or end > len(text):
            raise RunError(f"edits overlap or exceed the text at character {start}")
        parts += [text[at:start], replacement]
        at = end
    return "".join([*parts, text[at:]])
