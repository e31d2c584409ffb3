"""The work of `data_jobs.collect`: list, cut into shards of equal bytes, read each shard in a task of its own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
_WORK = ".work"  # hidden: the parts of dropped.parquet until the step is done


@dataclass(frozen=True)
class Shard:
    """A run of units that becomes one Parquet file."""

    name: str
    units: tuple[Unit, ...]


def collect(config: CollectConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.collect`."""
    listing = list_sources(config.sources)
    if not listing.units and not listing.refusals:
        raise UserError("sources: no files were found; check the paths and the exclude patterns")
    shards = list(cut(listing.units, shard_bytes=int(config.shard_megabytes * 1e6)))
    context.say(f"{sum(unit.size for unit in listing.units) / 1e6:,.1f} MB in {len(shards)} shards")
    admission = Admission(
        languages=load_languages(config.languages),
        max_file_bytes=config.max_file_bytes,
        notebooks=config.notebooks,
        nameless=config.nameless,
        inherited=inherit([(text.repo_name, text.path, text.text) for text in listing.licenses]),
    )

    def work(shard: Shard) -> int:
        return collect_shard(shard, admission, context.output)

    rows = sum(map_shards(shards, work, name="collect"))
    dropped = _merge_dropped(shards, listing.refusals, context.name, context.output)
    counts = Counter(dropped["reason"].to_pylist())
    seen = rows + dropped.num_rows
    if not rows:
        raise UserError(f"sources: none of {seen:,} files came in ({_most(counts)}); check the paths")
    context.output.remove(_WORK)
    details = {"license_files": len(listing.licenses), "sources": [source.kind for source in config.sources]}
    return Outcome(rows_in=seen, rows_out=rows, dropped=dict(sorted(counts.items())), details=details)


def list_sources(sources: Sequence[Source]) -> Listing:
    """The listings of all sources in their order."""
    whole = Listing()
    for source in sources:
        found = source.listing()
        whole.units += found.units
        whole.refusals += found.refusals
        whole.licenses += found.licenses
    return whole


def cut(units: Sequence[Unit], *, shard_bytes: int) -> Iterator[Shard]:
    """Cut a listing into shards of about `shard_bytes`, in its order."""
    part: list[Unit] = []
    size = number = 0
    for unit in units:
        if part and size + unit.size > shard_bytes:
            yield Shard(shard_name(number), tuple(part))
            part, size, number = [], 0, number + 1
        part.append(unit)
        size += unit.size
    if part:
        yield Shard(shard_name(number), tuple(part))


def collect_shard(shard: Shard, admission: Admission, output: ArtifactWriter) -> int:
    """Read one shard's units and write its table; returns its rows. A finished shard is left as it is."""
    name, dropped_name = f"data/{shard.name}", f"{_WORK}/{shard.name}"
    if output.exists(name) and output.exists(dropped_name):
        return _rows(output, name)
    records: list[Record] = []
    refusals: list[Refusal] = []
    for unit in shard.units:
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
    shards: Sequence[Shard], refusals: Sequence[Refusal], stage: str, output: ArtifactWriter
) -> pa.Table:
    import pyarrow.parquet as pq

    tables = [_refused_table(refusals, STAGE)]
    for shard in shards:
        with output.open_file(f"{_WORK}/{shard.name}") as file:
            tables.append(pq.read_table(file))
    order = [("repo_name", "ascending"), ("path", "ascending"), ("reason", "ascending")]
    merged = pa.concat_tables(tables).sort_by(order)
    merged = merged.set_column(3, DROPPED.field("stage"), pa.array([stage] * merged.num_rows, pa.string()))
    output.write_table("dropped.parquet", merged)
    return merged


def _rows(output: ArtifactWriter, name: str) -> int:
    import pyarrow.parquet as pq

    with output.open_file(name) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))
