"""Write the curated corpus: every decision and edit applied, text written for the second and last time."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_jobs.corpus.card import CardFacts, render_card
from data_jobs.corpus.edits import edited
from data_jobs.corpus.funnel import (
    LicenseLosses,
    ShardTotals,
    add_examples,
    funnel_of,
    merged_facets,
    totals_of,
)
from data_jobs.shards import map_shards
from data_jobs.verdicts import OF_FILES
from starloom.artifact import Artifact, ArtifactWriter
from starloom.config import Config
from starloom.decisions import dropped_rows, edits_of
from starloom.errors import RunError
from starloom.kinds import DROPPED_FILE, Collected, Corpus, Decisions, Stage, data_file
from starloom.program import main
from starloom.schema import DROPPED
from starloom.step import Outcome, Step, StepContext

_WORK = ".work"
DROPPED_EXAMPLES = 3  # files of each reason, for the report


class CurateConfig(Config):
    """Nothing to set: what is in the corpus was decided by the steps before."""


def run(config: CurateConfig, context: StepContext) -> Outcome:
    """Apply all decisions and edits; write the corpus, what was dropped, the funnel and the languages.

    Raises:
        RunError: every file was dropped.
    """
    collected = Collected(context.only(Collected.kind))
    decisions = context.every(Decisions.kind)
    shards = collected.shards()

    def work(shard: str) -> ShardTotals:
        return _curate_shard(shard, collected, decisions, context.output)

    totals = map_shards(shards, work, name="curate")
    funnel = funnel_of(collected.artifact, [artifact.name for artifact in decisions], totals)
    if funnel[-1].files_out == 0:
        raise RunError("the corpus is empty: every file was dropped; see `starloom explain`, and loosen the filters")
    dropped_examples = _merge_dropped(collected, shards, context.output)
    _write_summary(funnel, totals, decisions, dropped_examples, context.output)
    context.output.remove(_WORK)
    dropped: Counter[str] = Counter()
    for stage in funnel:
        dropped.update(stage.dropped)
    benchmarks = sorted({name for artifact in decisions for name in Decisions(artifact).benchmarks()})
    return Outcome(
        rows_in=funnel[0].files_in,
        rows_out=funnel[-1].files_out,
        dropped=dict(sorted(dropped.items())),
        details={Decisions.BENCHMARKS: benchmarks},
    )


def _curate_shard(
    shard: str, collected: Collected, decisions: Sequence[Artifact], output: ArtifactWriter
) -> ShardTotals:
    name = data_file(shard)
    table, dropped = collected.table(shard), dropped_rows(shard, decisions)
    if output.exists(name):
        return totals_of(table, dropped, output.read_table(name))
    gone = dropped["row"].to_numpy()
    alive = np.ones(table.num_rows, dtype=bool)
    alive[gone] = False
    kept = edited(table, edits_of(shard, decisions), alive)
    lost = table.select(["id", "repo_name", "path"]).take(pa.array(gone))
    for column in ("stage", "reason", "detail"):
        lost = lost.append_column(column, dropped[column])
    output.write_table(f"{_WORK}/{shard}", lost.cast(DROPPED))
    output.write_table(name, kept, row_group_rows=1000)
    return totals_of(table, dropped, kept)


def _write_summary(
    funnel: Sequence[Stage],
    totals: Sequence[ShardTotals],
    decisions: Sequence[Artifact],
    dropped: dict[str, list[str]],
    output: ArtifactWriter,
) -> None:
    sizes = merged_facets(totals)
    languages = {name: {"files": files, "bytes": size} for name, (files, size) in sizes["language"].items()}
    output.write_json(Corpus.FUNNEL, [vars(stage) for stage in funnel])
    output.write_json(Corpus.LANGUAGES, languages)
    edits: Counter[str] = Counter()
    clusters = 0
    for view in map(Decisions, decisions):
        edits.update(view.edit_counts())
        found = view.clusters(["cluster"])
        clusters += len(pc.unique(found["cluster"])) if found is not None else 0
    losses, examples = LicenseLosses(), dict[str, list[str]]()
    for total in totals:
        losses.add(total.license_losses)
        add_examples(examples, total.kept_examples)
    output.write_json(Corpus.FACTS, Corpus.facts(sizes, edits, dropped))
    facets = (sizes["language"], sizes["license"], sizes["source"], sizes["kind"])
    output.write_text(Corpus.CARD, render_card(CardFacts(funnel, *facets, edits, clusters, examples, losses)))


def _merge_dropped(collected: Collected, shards: Sequence[str], output: ArtifactWriter) -> dict[str, list[str]]:
    """Everything dropped: what never came in, then shard by shard. Returns some files of each reason."""
    before = collected.artifact.tables([DROPPED_FILE])
    examples: dict[str, list[str]] = {}

    def seen(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            reasons = table["reason"]
            for reason in pc.unique(reasons).to_pylist():
                held = examples.setdefault(reason, [])
                if len(held) < DROPPED_EXAMPLES:
                    some = table.filter(pc.equal(reasons, reason)).slice(0, DROPPED_EXAMPLES - len(held))
                    held += [f"{row['repo_name']}/{row['path']}: {row['detail']}" for row in some.to_pylist()]
            yield table

    every = itertools.chain(before, output.tables(f"{_WORK}/{s}" for s in shards))
    output.write_tables(DROPPED_FILE, DROPPED, seen(every))
    return dict(sorted(examples.items()))


STEP = Step(
    config=CurateConfig,
    run=run,
    produces=Corpus.kind,
    version=5,
    consumes=OF_FILES,
)

if __name__ == "__main__":
    main(STEP)
