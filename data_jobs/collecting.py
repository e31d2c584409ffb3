"""The work of `data_jobs.collect`: list, cut into shards of equal bytes, read each shard in a task of its own."""

import itertools
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from data_jobs.admission import Admission, Record
from data_jobs.collect import CollectConfig
from data_jobs.languages import load_languages
from data_jobs.licenses import inherit
from data_jobs.shards import map_shards, shard_name
from data_jobs.sources.entries import Listing, Refusal, Source, Unit
from starloom.artifact import ArtifactWriter
from starloom.errors import UserError
from starloom.schema import CORPUS, DROPPED
from starloom.step import Outcome, StepContext

STAGE = "collect"
_WORK = ".work"  # hidden: the parts of dropped.parquet, and of the listing, until the step is done
_UNITS = f"{_WORK}/units"
ROW_BYTES = 256  # what a row takes beside its text


def collect(config: CollectConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.collect`.

    The units of each shard wait in a file of their own: neither this process nor any task ever holds the whole listing.
    """
    met = Listing()
    shards: list[str] = []
    size = 0
    for shard in cut(every_unit(config.sources, met), shard_bytes=int(config.shard_megabytes * 1e6)):
        name = shard_name(len(shards))
        with context.output.create(f"{_UNITS}/{name}") as file:
            pickle.dump(shard, file)
        shards.append(name)
        size += sum(unit.size for unit in shard)
    if not shards and not met.refusals:
        raise UserError("sources: no files were found; check the paths and the exclude patterns")
    context.say(f"{size / 1e6:,.1f} MB in {len(shards)} shards")
    admission = Admission(
        languages=load_languages(config.languages),
        max_file_bytes=config.max_file_bytes,
        notebooks=config.notebooks,
        nameless=config.nameless,
        inherited=inherit([(text.repo_name, text.path, text.text) for text in met.licenses]),
    )

    def work(shard: str) -> int:
        return collect_shard(shard, admission, context.output)

    rows = sum(map_shards(shards, work, name="collect"))
    counts = _merge_dropped(shards, met.refusals, context.name, context.output)
    seen = rows + counts.total()
    if not rows:
        raise UserError(f"sources: none of {seen:,} files came in ({_most(counts)}); check the paths")
    context.output.remove(_WORK)
    details = {"license_files": len(met.licenses), "sources": [source.kind for source in config.sources]}
    return Outcome(rows_in=seen, rows_out=rows, dropped=dict(sorted(counts.items())), details=details)


def every_unit(sources: Sequence[Source], met: Listing) -> Iterator[Unit]:
    """The units of all sources in their order; what the listings meet besides is added to `met`."""
    for source in sources:
        listing = source.listing()
        yield from listing.every_unit()
        met.refusals += sorted(listing.refusals, key=lambda refusal: (refusal.repo_name, refusal.path, refusal.reason))
        met.licenses += listing.licenses


def cut(units: Iterable[Unit], *, shard_bytes: int) -> Iterator[tuple[Unit, ...]]:
    """Cut units into shards of about `shard_bytes`, in their order; a row costs too, however short its text."""
    part: list[Unit] = []
    size = 0
    for unit in units:
        cost = unit.size + ROW_BYTES
        if part and size + cost > shard_bytes:
            yield tuple(part)
            part, size = [], 0
        part.append(unit)
        size += cost
    if part:
        yield tuple(part)


def collect_shard(shard: str, admission: Admission, output: ArtifactWriter) -> int:
    """Read one shard's units and write its table; returns its rows. A finished shard is left as it is."""
    name, dropped_name = f"data/{shard}", f"{_WORK}/{shard}"
    if output.exists(name) and output.exists(dropped_name):
        return _rows(output, name)
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
    output.write_table(dropped_name, _refused_table(refusals, STAGE))
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

    def named() -> Iterator[pa.Table]:
        for table in itertools.chain([_refused_table(refusals, STAGE)], output.tables(f"{_WORK}/{s}" for s in shards)):
            counts.update(table["reason"].to_pylist())
            yield table.set_column(3, DROPPED.field("stage"), pa.array([stage] * table.num_rows, pa.string()))

    output.write_tables("dropped.parquet", DROPPED, named())
    return counts


def _rows(output: ArtifactWriter, name: str) -> int:
    import pyarrow.parquet as pq

    with output.open_file(name) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))
