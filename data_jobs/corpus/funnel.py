"""What came in, what each stage dropped, what is left: counted shard by shard, then added up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.artifact import Artifact
from starloom.kinds import Stage

# what the card counts the corpus by, and the column that says it
FACETS = {"language": "language", "license": "licenses", "source": "source", "kind": "kind"}
LICENSE_REASONS = ("license", "no_license")  # of `data_jobs.policy`
EXAMPLES = 10


@dataclass(frozen=True)
class ShardTotals:
    """What one shard contributes to the funnel: bytes and files per stage and reason, and per language."""

    files: int
    bytes: int
    dropped: Counter[tuple[str, str]]  # (stage, reason) -> files
    dropped_bytes: Counter[str]  # stage -> bytes
    files_by: dict[str, Counter[str]]  # facet ("language", "source", "kind", "license") -> value -> files
    bytes_by: dict[str, Counter[str]]
    kept_examples: dict[str, list[str]]  # licence -> some files under it, and what tells it
    license_losses: "LicenseLosses"


@dataclass
class LicenseLosses:
    """What the licence policy dropped: files by licence and by repository, and some files of each with the evidence."""

    licenses: Counter[str] = field(default_factory=Counter)
    repositories: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: "LicenseLosses") -> None:
        """Take in what another shard lost; of examples the first ones stay."""
        self.licenses.update(other.licenses)
        self.repositories.update(other.repositories)
        add_examples(self.examples, other.examples)


def add_examples(mine: dict[str, list[str]], others: Mapping[str, list[str]]) -> None:
    """Append to each list up to `EXAMPLES`."""
    for name, some in others.items():
        held = mine.setdefault(name, [])
        held += some[: EXAMPLES - len(held)]


def totals_of(table: pa.Table, dropped: pa.Table, kept: pa.Table) -> ShardTotals:
    """The totals of a collected shard: what was in it, what decisions dropped of it, and what is kept after edits.

    `table` and `kept` are of `schema.CORPUS`, `dropped` is of `schema.DECISIONS`.
    """
    sizes = pc.binary_length(table["content"]).to_numpy().astype(np.int64)
    stages, reasons = dropped["stage"].to_pylist(), dropped["reason"].to_pylist()
    stage_bytes: Counter[str] = Counter()
    for stage, size in zip(stages, sizes[dropped["row"].to_numpy()], strict=True):
        stage_bytes[stage] += int(size)
    files_by: dict[str, Counter[str]] = {facet: Counter() for facet in FACETS}
    bytes_by: dict[str, Counter[str]] = {facet: Counter() for facet in FACETS}
    kept_sizes = pc.binary_length(kept["content"]).to_pylist()
    for facet, column in FACETS.items():
        for value, size in zip(kept[column].to_pylist(), kept_sizes, strict=True):
            for name in (value or [""]) if isinstance(value, list) else [value or ""]:
                files_by[facet][name] += 1
                bytes_by[facet][name] += size
    return ShardTotals(
        files=table.num_rows,
        bytes=int(sizes.sum()),
        dropped=Counter(zip(stages, reasons, strict=True)),
        dropped_bytes=stage_bytes,
        files_by=files_by,
        bytes_by=bytes_by,
        kept_examples=_kept_examples(kept),
        license_losses=_license_losses(table, dropped),
    )


def _kept_examples(kept: pa.Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    columns = (kept[name].to_pylist() for name in ("repo_name", "path", "licenses", "license_source"))
    for repo_name, path, licenses, source in zip(*columns, strict=True):
        for name in licenses or [""]:
            held = found.setdefault(name, [])
            if len(held) < EXAMPLES:
                held.append(f"{repo_name}/{path}: {source or 'nothing tells a licence'}")
    return found


def _license_losses(table: pa.Table, dropped: pa.Table) -> LicenseLosses:
    losses = LicenseLosses()
    mine = dropped.filter(pc.is_in(dropped["reason"], pa.array(LICENSE_REASONS)))
    names = table.select(["repo_name", "path"]).take(mine["row"]).to_pylist()
    for row, reason, detail in zip(names, mine["reason"].to_pylist(), mine["detail"].to_pylist(), strict=True):
        refused, _, source = detail.partition(" by ") if reason == "license" else ("", "", detail)
        losses.licenses[refused] += 1
        losses.repositories[row["repo_name"]] += 1
        held = losses.examples.setdefault(refused, [])
        if len(held) < EXAMPLES:
            held.append(f"{row['repo_name']}/{row['path']}: {source or 'given'}")
    return losses


def merged_facets(totals: Sequence[ShardTotals]) -> dict[str, dict[str, tuple[int, int]]]:
    """(files, bytes) of the corpus by facet and value."""
    merged: dict[str, dict[str, tuple[int, int]]] = {}
    for facet in FACETS:
        files: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for total in totals:
            files.update(total.files_by[facet])
            sizes.update(total.bytes_by[facet])
        merged[facet] = {name: (files[name], sizes[name]) for name in sorted(files)}
    return merged


def funnel_of(collected: Artifact, stage_names: Sequence[str], totals: Sequence[ShardTotals]) -> list[Stage]:
    """The stages in their order, collecting first."""
    files, size = sum(total.files for total in totals), sum(total.bytes for total in totals)
    counts = collected.manifest.counts
    # sizes of what never came in are unknown: some of it could not even be read
    funnel = [Stage(collected.name, counts.rows_in, files, size, size, dict(counts.dropped))]
    for name in stage_names:
        dropped: Counter[str] = Counter()
        lost = 0
        for total in totals:
            for (stage, reason), number in total.dropped.items():
                if stage == name:
                    dropped[reason] += number
            lost += total.dropped_bytes[name]
        gone = sum(dropped.values())
        funnel.append(Stage(name, files, files - gone, size, size - lost, dict(sorted(dropped.items()))))
        files, size = files - gone, size - lost
    return funnel
