"""Replace personal data and secrets: one table of edits per collected shard, no text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_jobs.personal_data.redaction import Detector, load_detectors, redact
from data_jobs.shards import map_shards
from data_jobs.verdicts import OF_FILES, surviving_rows, write_no_decisions
from starloom import plugins
from starloom.artifact import Artifact, ArtifactWriter
from starloom.config import Config
from starloom.decisions import surviving
from starloom.kinds import Collected, Decisions, decisions_file, edits_file
from starloom.program import main
from starloom.schema import EDITS
from starloom.step import Outcome, Step, StepContext


class RedactConfig(Config):
    """Which detectors look: built in, or ``module:function`` returning findings (names by a model, for example)."""

    detectors: tuple[str, ...] = ("emails", "addresses", "secrets")


@dataclass(frozen=True)
class ShardEdits:
    """What one shard contributed."""

    seen: int
    files: int  # with an edit at least
    kinds: Counter[str]


def run(config: RedactConfig, context: StepContext) -> Outcome:
    """Find e-mail and IP addresses, keys, tokens and passwords in every surviving file and write their edits."""
    collected, earlier = Collected(context.only(Collected.kind)), context.every(Decisions.kind)
    detectors = load_detectors(config.detectors)

    def work(shard: str) -> ShardEdits:
        return _redact_shard(shard, collected, earlier, detectors, context.output)

    done = map_shards(collected.shards(), work, name=context.name)
    kinds: Counter[str] = Counter()
    for shard in done:
        kinds.update(shard.kinds)
    seen = sum(shard.seen for shard in done)
    details = {Decisions.EDITS: dict(sorted(kinds.items())), "files_edited": sum(shard.files for shard in done)}
    return Outcome(rows_in=seen, rows_out=seen, details=details)


def _redact_shard(
    shard: str, collected: Collected, earlier: list[Artifact], detectors: Sequence[Detector], output: ArtifactWriter
) -> ShardEdits:
    name = edits_file(shard)
    if output.exists(name) and output.exists(decisions_file(shard)):
        alive = surviving(shard, collected.table(shard, ["id"]).num_rows, earlier)
        edits = output.read_table(name, ["row", "kind"])
    else:
        table = collected.table(shard, ["content"])
        alive = surviving(shard, table.num_rows, earlier)
        found = ((number, redact(row["content"], detectors)) for number, row in surviving_rows(table, alive))
        rows = [{"row": number, **vars(edit)} for number, several in found for edit in several]
        edits = pa.Table.from_pylist(rows, schema=EDITS)
        write_no_decisions(shard, output)
        output.write_table(name, edits)
    return ShardEdits(int(alive.sum()), len(set(edits["row"].to_pylist())), Counter(edits["kind"].to_pylist()))


def source_state(config: RedactConfig) -> Any:
    """The code of detectors of one's own: an edit of it makes the step stale."""
    return plugins.code_state(config.detectors, what="detectors", group="detectors")


STEP = Step(
    config=RedactConfig,
    run=run,
    produces=Decisions.kind,
    version=2,
    source_state=source_state,
    consumes=OF_FILES,
)

if __name__ == "__main__":
    main(STEP)
