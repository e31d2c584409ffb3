"""Collect source files into corpus shards: text is read once here and written once more by `data_jobs.curate`.

The sources are listed and cut into shards of about equal bytes; each shard is read in a task of its own.
"""

import itertools
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import pyarrow as pa
from pydantic import Field

from data_jobs.admission.rules import Admission, Record, printable_refusal
from data_jobs.languages import load_languages, table_state
from data_jobs.shards import map_shards, shard_name
from data_jobs.sources.archive import ArchiveSource
from data_jobs.sources.entries import Limits, Refusal, Unit, grouped
from data_jobs.sources.folder import FolderSource, StandardLibrarySource
from data_jobs.sources.git import GitSource
from data_jobs.sources.history import GitHistorySource
from data_jobs.sources.inventory import Entry, Inventory
from data_jobs.sources.issues import GitHubIssuesSource
from data_jobs.sources.tables import JsonLinesSource, ParquetSource
from starloom import plugins, storage
from starloom.artifact import ArtifactWriter
from starloom.config import Config
from starloom.errors import StarloomError, UserError, one_line
from starloom.kinds import DROPPED_FILE, Collected, data_file
from starloom.opt_outs import entry_for, withdrawn
from starloom.program import main
from starloom.schema import CORPUS, DROPPED, LICENSES
from starloom.step import Outcome, Step, StepContext

_WORK = ".work"  # hidden: the parts of the table of what was dropped, and of the listing, until the step is done
_INVENTORY, _UNITS = f"{_WORK}/inventory", f"{_WORK}/units"
ROW_BYTES = 256  # what a row takes beside its text

BuiltIn = (
    FolderSource
    | StandardLibrarySource
    | GitSource
    | GitHistorySource
    | GitHubIssuesSource
    | ArchiveSource
    | ParquetSource
    | JsonLinesSource
)
if TYPE_CHECKING:
    AnySource = BuiltIn
else:  # and the sources of installed packages
    AnySource = Annotated[Union[(BuiltIn, *plugins.offered("sources"))], Field(discriminator="kind")]


class CollectConfig(Config):
    """What is collected, and what never comes in."""

    sources: tuple[AnySource, ...] = Field(min_length=1)
    languages: str | None = None  # a table like data_jobs/languages.toml
    selection: Literal["all", "starcoder"] | tuple[str, ...] = "all"  # of the table's languages
    max_file_bytes: int = Field(1 << 20, gt=0)
    max_notebook_bytes: int = Field(32 << 20, gt=0)  # of the file, before its outputs are cut
    shard_megabytes: float = Field(8.0, gt=0)  # of source text; a shard is the unit of work and of resuming
    notebooks: Literal["structured", "script", "both", "drop"] = "structured"
    nameless: Literal["drop", "magika"] = "drop"  # files whose name and first line tell no language


def run(config: CollectConfig, context: StepContext) -> Outcome:
    """Read the sources into Parquet shards; what does not come in is in dropped.parquet with its reason.

    Raises:
        UserError: there is nothing to read, or none of it came in.
    """
    languages = load_languages(config.languages)
    admission = Admission(
        languages=languages,
        limits=Limits(config.max_file_bytes, config.max_notebook_bytes),
        notebooks=config.notebooks,
        nameless=config.nameless,
        selection=languages.selected(config.selection),
    )
    inventory = Inventory(context.output, _INVENTORY)
    states = context.source[0] if context.source else [None] * len(config.sources)
    size = int(config.shard_megabytes * 1e6)
    sources = [_from_here(source) for source in config.sources]
    shards = _write_shards(inventory.take(sources, states, admission.limits), size, context)

    gone = withdrawn(context.root)

    def work(shard: str) -> int:
        return collect_shard(shard, admission, inventory, context.name, gone)

    rows = sum(map_shards(shards, work, name="collect"))
    counts = _merge_dropped(shards, context.output)
    context.output.write_tables(Collected.LICENSES, LICENSES, _evidence(inventory))
    seen = rows + counts.total()
    if not rows:
        raise UserError(f"sources: none of {seen:,} files came in ({_most(counts)}); check the paths")
    context.output.remove(_WORK)
    details = {"sources": [source.kind for source in config.sources]}
    return Outcome(rows_in=seen, rows_out=rows, dropped=dict(sorted(counts.items())), details=details)


def _from_here(source: Any) -> Any:
    """The source with its locations as they are seen from here: a worker may run somewhere else."""
    given = {name: getattr(source, name, None) for name in ("path", "contents")}
    return source.model_copy(update={name: storage.normalize(place) for name, place in given.items() if place})


def _write_shards(entries: Iterable[Entry], limit: int, context: StepContext) -> list[str]:
    """Names of the shards to be read. The units of each wait in a file of their own: nobody holds the whole listing."""
    shards: list[str] = []
    size = 0
    # a row costs too, however short its text
    for shard in grouped(entries, limit, lambda entry: entry.unit.size + ROW_BYTES):
        name = shard_name(len(shards))
        with context.output.create(f"{_UNITS}/{name}") as file:
            pickle.dump(shard, file)
        shards.append(name)
        size += sum(entry.unit.size for entry in shard)
    if not shards:
        raise UserError("sources: no files were found; check the paths and the exclude patterns")
    context.say(f"{size / 1e6:,.1f} MB in {len(shards)} shards")
    return shards


def collect_shard(
    shard: str, admission: Admission, inventory: Inventory, stage: str, gone: frozenset[str] = frozenset()
) -> int:
    """Read one shard's units and write its table; returns its rows. A finished shard is left as it is.

    Rows of repositories that are `gone` are written without their text: policy drops them, and no other row moves.
    """
    output = inventory.output
    name, dropped_name = data_file(shard), f"{_WORK}/{shard}"
    if output.exists(name) and output.exists(dropped_name):
        return output.rows(name)
    with output.open_file(f"{_UNITS}/{shard}") as file:
        entries: tuple[Entry, ...] = pickle.load(file)
    coverage = inventory.coverage(
        {entry.place for entry in entries},
        {entry.unit.scope for entry in entries} - {""},
        by_name=any(entry.place < 0 for entry in entries),
    )
    admission = replace(admission, coverage=coverage)
    records: list[Record] = []
    refusals: list[Refusal] = []
    for entry in entries:
        for outcome in read_unit(entry.unit, admission):
            if isinstance(outcome, Refusal):
                refusals.append(outcome)
            else:
                if gone and entry_for(outcome["repo_name"], gone):
                    outcome["content"] = ""
                records.append(outcome)
    output.write_table(dropped_name, _refused_table(refusals, stage))
    output.write_table(name, pa.Table.from_pylist(records, schema=CORPUS), row_group_rows=1000)
    return len(records)


def read_unit(unit: Unit, admission: Admission) -> Iterator[Record | Refusal]:
    """The rows and refusals of a unit. What a reader did not foresee in the data ends the unit with one more refusal.

    Raises:
        StarloomError: the machine or the network did not give it.
        OSError: likewise, of what this step itself has written.
    """
    try:
        for found in unit.read(admission.limits):
            if isinstance(found, Refusal):
                yield printable_refusal(found)
            else:
                yield from admission.admit(found)
    except (StarloomError, OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a fault of the data must not end a run of days; it is counted
        yield printable_refusal(
            Refusal(
                "unknown", type(unit).__name__, "unreadable_unit", one_line(f"{type(error).__name__}: {error}", 200)
            )
        )


def _evidence(inventory: Inventory) -> Iterator[pa.Table]:
    """What tells the licences, file by file (schema.LICENSES)."""
    rows = (
        {"repo_name": told.repo_name, "path": told.claim.path, "covers": told.claim.folder, "kind": told.claim.kind}
        | {"licenses": list(told.claim.licenses), "score": told.claim.score}
        for told in inventory.evidence()
        if told.claim is not None
    )
    while batch := list(itertools.islice(rows, 10_000)):
        yield pa.Table.from_pylist(batch, schema=LICENSES)


def _refused_table(refusals: Sequence[Refusal], stage: str) -> pa.Table:
    rows = [
        {"id": None, "repo_name": r.repo_name, "path": r.path, "stage": stage, "reason": r.reason, "detail": r.detail}
        for r in refusals
    ]
    return pa.Table.from_pylist(rows, schema=DROPPED)


def _merge_dropped(shards: Sequence[str], output: ArtifactWriter) -> Counter[str]:
    """What was refused, shard by shard; counts by reason."""
    counts: Counter[str] = Counter()

    def counted() -> Iterator[pa.Table]:
        for table in output.tables(f"{_WORK}/{shard}" for shard in shards):
            counts.update(table["reason"].to_pylist())
            yield table

    output.write_tables(DROPPED_FILE, DROPPED, counted())
    return counts


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))


def source_state(config: CollectConfig) -> Any:
    """What changes when a source does: contents of files, commits of repositories."""
    return [[source.state() for source in config.sources], table_state(config.languages)]


def earlier_states(config: CollectConfig) -> list[Any]:
    """The state with times of change in place of contents, as steps of before had it."""
    timed = [source.timed() if hasattr(source, "timed") else source.state() for source in config.sources]
    return [[timed, table_state(config.languages)]]


STEP = Step(
    config=CollectConfig,
    run=run,
    produces=Collected.kind,
    version=4,
    source_state=source_state,
    consumes={},
    earlier_states=earlier_states,
)

if __name__ == "__main__":
    main(STEP)
