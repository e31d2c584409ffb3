"""Collect source files into corpus shards: text is read once here and written once more by `data_jobs.curate`.

The sources are listed and cut into shards of about equal bytes; each shard is read in a task of its own.
"""

import itertools
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from data_jobs.admission.rules import Admission, Record
from data_jobs.languages import load_languages, table_state
from data_jobs.licenses import inherit
from data_jobs.shards import map_shards, shard_name
from data_jobs.sources.archive import ArchiveSource
from data_jobs.sources.entries import Listing, Refusal, Source, Unit, grouped
from data_jobs.sources.folder import FolderSource, StandardLibrarySource
from data_jobs.sources.git import GitSource
from data_jobs.sources.history import GitHistorySource
from data_jobs.sources.issues import GitHubIssuesSource
from data_jobs.sources.tables import JsonLinesSource, ParquetSource
from starloom.artifact import ArtifactWriter
from starloom.config import Config
from starloom.errors import UserError
from starloom.kinds import DROPPED_FILE, Collected, data_file
from starloom.program import main
from starloom.schema import CORPUS, DROPPED
from starloom.step import Outcome, Step, StepContext

_WORK = ".work"  # hidden: the parts of the table of what was dropped, and of the listing, until the step is done
_UNITS = f"{_WORK}/units"
ROW_BYTES = 256  # what a row takes beside its text

AnySource = Annotated[
    FolderSource
    | StandardLibrarySource
    | GitSource
    | GitHistorySource
    | GitHubIssuesSource
    | ArchiveSource
    | ParquetSource
    | JsonLinesSource,
    Field(discriminator="kind"),
]


class CollectConfig(Config):
    """What is collected, and what never comes in."""

    sources: tuple[AnySource, ...] = Field(min_length=1)
    languages: str | None = None  # a table like data_jobs/languages.toml
    max_file_bytes: int = Field(1 << 20, gt=0)
    shard_megabytes: float = Field(8.0, gt=0)  # of source text; a shard is the unit of work and of resuming
    notebooks: Literal["structured", "script", "both", "drop"] = "structured"
    nameless: Literal["drop", "magika"] = "drop"  # files whose name and first line tell no language


def run(config: CollectConfig, context: StepContext) -> Outcome:
    """Read the sources into Parquet shards; what does not come in is in dropped.parquet with its reason.

    Raises:
        UserError: there is nothing to read, or none of it came in.
    """
    met = Listing()
    shards = _write_listing(config, met, context)
    admission = Admission(
        languages=load_languages(config.languages),
        max_file_bytes=config.max_file_bytes,
        notebooks=config.notebooks,
        nameless=config.nameless,
        inherited=inherit([(text.repo_name, text.path, text.text) for text in met.licenses]),
    )

    def work(shard: str) -> int:
        return collect_shard(shard, admission, context.name, context.output)

    rows = sum(map_shards(shards, work, name="collect"))
    counts = _merge_dropped(shards, met.refusals, context.name, context.output)
    seen = rows + counts.total()
    if not rows:
        raise UserError(f"sources: none of {seen:,} files came in ({_most(counts)}); check the paths")
    context.output.remove(_WORK)
    details = {"license_files": len(met.licenses), "sources": [source.kind for source in config.sources]}
    return Outcome(rows_in=seen, rows_out=rows, dropped=dict(sorted(counts.items())), details=details)


def _write_listing(config: CollectConfig, met: Listing, context: StepContext) -> list[str]:
    """Names of the shards to be read. The units of each wait in a file of their own: nobody holds the whole listing."""
    shards: list[str] = []
    size = 0
    # a row costs too, however short its text
    states = context.source[0] if context.source else [None] * len(config.sources)
    units = grouped(
        every_unit(config.sources, states, met), int(config.shard_megabytes * 1e6), lambda unit: unit.size + ROW_BYTES
    )
    for shard in units:
        name = shard_name(len(shards))
        with context.output.create(f"{_UNITS}/{name}") as file:
            pickle.dump(shard, file)
        shards.append(name)
        size += sum(unit.size for unit in shard)
    if not shards and not met.refusals:
        raise UserError("sources: no files were found; check the paths and the exclude patterns")
    context.say(f"{size / 1e6:,.1f} MB in {len(shards)} shards")
    return shards


def every_unit(sources: Sequence[Source], states: Sequence[Any], met: Listing) -> Iterator[Unit]:
    """The units of all sources in their order; what the listings meet besides is added to `met`."""
    for source, state in zip(sources, states, strict=True):
        listing = source.listing(state)
        yield from listing.every_unit()
        met.refusals += sorted(listing.refusals, key=lambda refusal: (refusal.repo_name, refusal.path, refusal.reason))
        met.licenses += listing.licenses


def collect_shard(shard: str, admission: Admission, stage: str, output: ArtifactWriter) -> int:
    """Read one shard's units and write its table; returns its rows. A finished shard is left as it is."""
    name, dropped_name = data_file(shard), f"{_WORK}/{shard}"
    if output.exists(name) and output.exists(dropped_name):
        return output.rows(name)
    with output.open_file(f"{_UNITS}/{shard}") as file:
        units: tuple[Unit, ...] = pickle.load(file)
    records: list[Record] = []
    refusals: list[Refusal] = []
    for unit in units:
        for found in unit.read(admission.max_file_bytes):
            for outcome in [found] if isinstance(found, Refusal) else admission.admit(found):
                if isinstance(outcome, Refusal):
                    refusals.append(outcome)
                else:
                    records.append(outcome)
    output.write_table(dropped_name, _refused_table(refusals, stage))
    output.write_table(name, pa.Table.from_pylist(records, schema=CORPUS), row_group_rows=1000)
    return len(records)


def _refused_table(refusals: Sequence[Refusal], stage: str) -> pa.Table:
    rows = [
        {"id": None, "repo_name": r.repo_name, "path": r.path, "stage": stage, "reason": r.reason, "detail": r.detail}
        for r in refusals
    ]
    return pa.Table.from_pylist(rows, schema=DROPPED)


def _merge_dropped(
    shards: Sequence[str], refusals: Sequence[Refusal], stage: str, output: ArtifactWriter
) -> Counter[str]:
    """What was refused, of the listings first and then shard by shard; counts by reason."""
    counts: Counter[str] = Counter()

    def counted() -> Iterator[pa.Table]:
        tables = output.tables(f"{_WORK}/{shard}" for shard in shards)
        for table in itertools.chain([_refused_table(refusals, stage)], tables):
            counts.update(table["reason"].to_pylist())
            yield table

    output.write_tables(DROPPED_FILE, DROPPED, counted())
    return counts


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))


def source_state(config: CollectConfig) -> Any:
    """What changes when a source does: sizes and times of files, commits of repositories."""
    return [[source.state() for source in config.sources], table_state(config.languages)]


STEP = Step(config=CollectConfig, run=run, produces=Collected.kind, version=3, source_state=source_state)

if __name__ == "__main__":
    main(STEP)
