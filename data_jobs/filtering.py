"""The work of `data_jobs.filter`, and what all decision steps share: judging the surviving rows of each shard."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_jobs.filter import FilterConfig
from data_jobs.languages import load_languages
from data_jobs.quality import SourceFile, Verdict, judge, load_rules
from data_jobs.shards import map_shards, shard_names
from starloom.artifact import Artifact, ArtifactWriter
from starloom.decisions import surviving
from starloom.schema import DECISIONS
from starloom.step import Outcome, StepContext


@dataclass(frozen=True)
class ShardCount:
    """What one shard contributed."""

    seen: int
    dropped: dict[str, int]


def filter_corpus(config: FilterConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.filter`."""
    languages = load_languages(config.languages).by_name
    rules = load_rules(config.rules)

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        language = languages.get(row["language"])
        if language is None or row["kind"] != "file":
            return None
        return judge(SourceFile(row["path"], row["content"], language, config.limits), rules)

    return decide(context, verdict, columns=("path", "language", "kind", "content"))


def decide(
    context: StepContext, verdict: Callable[[Mapping[str, Any]], Verdict | None], *, columns: tuple[str, ...]
) -> Outcome:
    """Judge every row that earlier decisions left in, shard by shard, and write this step's decisions."""
    collected = context.only("collected")
    earlier = context.every("decisions")

    def work(shard: str) -> ShardCount:
        return _decide_shard(shard, collected, earlier, verdict, columns, context.name, context.output)

    counts = map_shards(shard_names(collected), work, name=context.name)
    dropped: Counter[str] = Counter()
    for count in counts:
        dropped.update(count.dropped)
    seen = sum(count.seen for count in counts)
    return Outcome(rows_in=seen, rows_out=seen - sum(dropped.values()), dropped=dict(sorted(dropped.items())))


def _decide_shard(
    shard: str,
    collected: Artifact,
    earlier: list[Artifact],
    verdict: Callable[[Mapping[str, Any]], Verdict | None],
    columns: tuple[str, ...],
    stage: str,
    output: ArtifactWriter,
) -> ShardCount:
    table = collected.read_table(f"data/{shard}", columns)
    alive = surviving(shard, table.num_rows, earlier)
    name = f"decisions/{shard}"
    if not output.exists(name):
        decisions = []
        for number, row in enumerate(rows(table)):
            found = verdict(row) if alive[number] else None
            if found is not None:
                decisions.append({"row": number, "stage": stage, "reason": found.reason, "detail": found.detail})
        output.write_table(name, pa.Table.from_pylist(decisions, schema=DECISIONS))
    with output.open_file(name) as file:
        import pyarrow.parquet as pq

        written = pq.read_table(file)
    return ShardCount(int(alive.sum()), dict(Counter(written["reason"].to_pylist())))


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table as dictionaries, a few hundred in memory at a time."""
    for batch in table.to_batches(max_chunksize=256):
        yield from batch.to_pylist()
