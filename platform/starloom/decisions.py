"""Decision tables read: which rows of a collected shard are still in, and why the others are not."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.artifact import Artifact
from starloom.errors import RunError
from starloom.kinds import decisions_file, edits_file
from starloom.schema import DECISIONS, EDITS


def dropped_rows(shard: str, decisions: Sequence[Artifact]) -> pa.Table:
    """Everything that the given artifacts drop from one shard (`DECISIONS`, ascending rows, first decision counts)."""
    tables = [artifact.read_table(decisions_file(shard)) for artifact in decisions]
    merged = pa.concat_tables(tables) if tables else DECISIONS.empty_table()
    rows = merged["row"].to_numpy()
    _, first = np.unique(rows, return_index=True)
    return merged.take(pa.array(first))


def surviving(shard: str, rows: int, decisions: Sequence[Artifact]) -> np.ndarray:
    """Bool [rows]: True where no decision drops the row of the collected shard `shard`.

    Raises:
        RunError: a decision is about a row that the shard does not have.
    """
    mask = np.ones(rows, dtype=bool)
    for artifact in decisions:
        dropped = artifact.read_table(decisions_file(shard), ["row"])["row"].to_numpy()
        if len(dropped) and int(dropped.max()) >= rows:
            raise RunError(
                f"{artifact.folder}: {decisions_file(shard)} names row {int(dropped.max())} of {rows}; run it again"
            )
        mask[dropped] = False
    return mask


def edits_of(shard: str, decisions: Sequence[Artifact]) -> pa.Table:
    """The replacements for one shard (`EDITS`), ordered by row and start."""
    name = edits_file(shard)
    tables = [artifact.read_table(name) for artifact in decisions if artifact.has(name)]
    if not tables:
        return EDITS.empty_table()
    merged = pa.concat_tables(tables)
    return merged.take(pc.sort_indices(merged, sort_keys=[("row", "ascending"), ("start", "ascending")]))
