"""Steps that decide: a verdict on every row that earlier decisions left in, one table per collected shard, no text."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from data_jobs.shards import map_shards
from starloom.artifact import Artifact, ArtifactWriter
from starloom.decisions import surviving
from starloom.kinds import Collected, Decisions, decisions_file
from starloom.schema import DECISIONS
from starloom.step import Count, Outcome, StepContext

# what steps take that decide on files: the files, and what was decided before
OF_FILES: Final = {Collected.kind: Count.ONE, Decisions.kind: Count.ANY}


@dataclass(frozen=True)
class Verdict:
    """Why a row is dropped."""

    reason: str
    detail: str


@dataclass(frozen=True)
class ShardCount:
    """What one shard contributed."""

    seen: int
    dropped: Counter[str]


Judge = Callable[[Mapping[str, Any]], Verdict | None]


def decide(context: StepContext, verdict: Judge, *, columns: tuple[str, ...]) -> Outcome:
    """Judge every row that earlier decisions left in, shard by shard, and write this step's decisions.

    `verdict` sees the given columns of `schema.CORPUS`.
    """
    collected, earlier = Collected(context.only(Collected.kind)), context.every(Decisions.kind)

    def work(shard: str) -> ShardCount:
        return _decide_shard(shard, collected, earlier, verdict, columns, context)

    counts = map_shards(collected.shards(), work, name=context.name)
    dropped: Counter[str] = Counter()
    for count in counts:
        dropped.update(count.dropped)
    seen = sum(count.seen for count in counts)
    return Outcome(rows_in=seen, rows_out=seen - dropped.total(), dropped=dict(sorted(dropped.items())))


def _decide_shard(
    shard: str,
    collected: Collected,
    earlier: list[Artifact],
    verdict: Judge,
    columns: tuple[str, ...],
    context: StepContext,
) -> ShardCount:
    name, output = decisions_file(shard), context.output
    if output.exists(name):
        alive = surviving(shard, collected.table(shard, ["id"]).num_rows, earlier)
        decisions = output.read_table(name)
    else:
        table = collected.table(shard, columns)
        alive = surviving(shard, table.num_rows, earlier)
        found = ((number, verdict(row)) for number, row in surviving_rows(table, alive))
        decisions = pa.Table.from_pylist(
            [{"row": number, "stage": context.name, **vars(one)} for number, one in found if one is not None],
            schema=DECISIONS,
        )
        output.write_table(name, decisions)
    return ShardCount(int(alive.sum()), Counter(decisions["reason"].to_pylist()))


def write_no_decisions(shard: str, output: ArtifactWriter) -> None:
    """The table of a step that drops nothing."""
    output.write_table(decisions_file(shard), DECISIONS.empty_table())


def surviving_rows(table: pa.Table, alive: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with a True in `alive` (bool [rows]) and their numbers, a few hundred in memory at a time."""
    for number, row in enumerate(rows(table)):
        if alive[number]:
            yield number, row


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table as dictionaries, a few hundred in memory at a time."""
    for batch in table.to_batches(max_chunksize=256):
        yield from batch.to_pylist()
