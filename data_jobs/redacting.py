"""The work of `data_jobs.redact`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_jobs.personal_data.redaction import Detector, load_detectors, redact
from data_jobs.redact import RedactConfig
from data_jobs.shards import map_shards, shard_names
from starloom.artifact import Artifact, ArtifactWriter
from starloom.decisions import surviving
from starloom.schema import DECISIONS, EDITS
from starloom.step import Outcome, StepContext


@dataclass(frozen=True)
class ShardEdits:
    """What one shard contributed."""

    seen: int
    files: int  # with an edit at least
    kinds: dict[str, int]


def redact_corpus(config: RedactConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.redact`."""
    collected, earlier = context.only("collected"), context.every("decisions")
    detectors = load_detectors(config.detectors)

    def work(shard: str) -> ShardEdits:
        return _redact_shard(shard, collected, earlier, detectors, context.output)

    done = map_shards(shard_names(collected), work, name=context.name)
    kinds: Counter[str] = Counter()
    for shard in done:
        kinds.update(shard.kinds)
    seen = sum(shard.seen for shard in done)
    details = {"edits": dict(sorted(kinds.items())), "files_edited": sum(shard.files for shard in done)}
    return Outcome(rows_in=seen, rows_out=seen, details=details)


def _redact_shard(
    shard: str, collected: Artifact, earlier: list[Artifact], detectors: Sequence[Detector], output: ArtifactWriter
) -> ShardEdits:
    name = f"edits/{shard}"
    table = collected.read_table(f"data/{shard}", ["content"])
    alive = surviving(shard, table.num_rows, earlier)
    if not (output.exists(name) and output.exists(f"decisions/{shard}")):
        rows: list[dict[str, Any]] = []
        for number in alive.nonzero()[0].tolist():
            edits = redact(table["content"][number].as_py(), detectors)
            rows += [{"row": number, **vars(edit)} for edit in edits]
        output.write_table(f"decisions/{shard}", DECISIONS.empty_table())
        output.write_table(name, pa.Table.from_pylist(rows, schema=EDITS))
    with output.open_file(name) as file:
        written = pq.read_table(file, columns=["row", "kind"])
    return ShardEdits(
        int(alive.sum()), len(set(written["row"].to_pylist())), dict(Counter(written["kind"].to_pylist()))
    )
