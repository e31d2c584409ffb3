"""The work of `data_jobs.curate`."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_jobs.card import CardFacts, render_card
from data_jobs.shards import map_shards, shard_names
from starloom.artifact import Artifact, ArtifactWriter
from starloom.decisions import dropped_rows, edits_of
from starloom.errors import RunError
from starloom.schema import CORPUS, DROPPED
from starloom.step import Outcome, StepContext

_WORK = ".work"
# what the card counts the corpus by, and the column that says it
FACETS = {"language": "language", "license": "licenses", "source": "source", "kind": "kind"}


@dataclass
class Stage:
    """One line of the funnel."""

    stage: str
    files_in: int = 0
    files_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardTotals:
    """What one shard contributes to the funnel: bytes and files per stage and reason, and per language."""

    files: int
    bytes: int
    dropped: Counter[tuple[str, str]]  # (stage, reason) -> files
    dropped_bytes: Counter[str]  # stage -> bytes
    files_by: dict[str, Counter[str]]  # facet ("language", "source", "kind", "license") -> value -> files
    bytes_by: dict[str, Counter[str]]


def curate(context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.curate`."""
    collected, decisions = context.only("collected"), context.every("decisions")
    shards = shard_names(collected)

    def work(shard: str) -> ShardTotals:
        return _curate_shard(shard, collected, decisions, context.output)

    totals = map_shards(shards, work, name="curate")
    funnel = _funnel(collected, [artifact.name for artifact in decisions], totals)
    last = funnel[-1]
    if last.files_out == 0:
        raise RunError("the corpus is empty: every file was dropped; see `starloom explain`, and loosen the filters")
    sizes = _merged_facets(totals)
    languages = {name: {"files": files, "bytes": size} for name, (files, size) in sizes["language"].items()}
    stages = [vars(stage) for stage in funnel]
    context.output.write_json("funnel.json", stages)
    context.output.write_json("languages.json", languages)
    context.output.write_text("card.md", render_card(_card_facts(stages, sizes, decisions)))
    _merge_dropped(collected, shards, context.output)
    context.output.remove(_WORK)
    dropped: Counter[str] = Counter()
    for stage in funnel:
        dropped.update(stage.dropped)
    return Outcome(rows_in=funnel[0].files_in, rows_out=last.files_out, dropped=dict(sorted(dropped.items())))


def _curate_shard(
    shard: str, collected: Artifact, decisions: Sequence[Artifact], output: ArtifactWriter
) -> ShardTotals:
    table = collected.read_table(f"data/{shard}")
    dropped = dropped_rows(shard, decisions)
    sizes = pc.binary_length(table["content"]).to_numpy().astype(np.int64)
    gone = dropped["row"].to_numpy()
    alive = np.ones(table.num_rows, dtype=bool)
    alive[gone] = False
    kept = _edited(table, edits_of(shard, decisions), alive)
    if not output.exists(f"data/{shard}"):
        lost = table.select(["id", "repo_name", "path"]).take(pa.array(gone))
        for column in ("stage", "reason", "detail"):
            lost = lost.append_column(column, dropped[column])
        output.write_table(f"{_WORK}/{shard}", lost.cast(DROPPED))
        output.write_table(f"data/{shard}", kept, row_group_rows=1000)
    stages, reasons = dropped["stage"].to_pylist(), dropped["reason"].to_pylist()
    stage_bytes: Counter[str] = Counter()
    for stage, size in zip(stages, sizes[gone], strict=True):
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
    )


def _merged_facets(totals: Sequence[ShardTotals]) -> dict[str, dict[str, tuple[int, int]]]:
    merged: dict[str, dict[str, tuple[int, int]]] = {}
    for facet in FACETS:
        files: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for total in totals:
            files.update(total.files_by[facet])
            sizes.update(total.bytes_by[facet])
        merged[facet] = {name: (files[name], sizes[name]) for name in sorted(files)}
    return merged


def _card_facts(
    stages: Sequence[dict[str, Any]], sizes: dict[str, dict[str, tuple[int, int]]], decisions: Sequence[Artifact]
) -> CardFacts:
    edits: Counter[str] = Counter()
    clusters = 0
    for artifact in decisions:
        edits.update(artifact.manifest.details.get("edits", {}))
        if artifact.has("clusters.parquet"):
            clusters += len(pc.unique(artifact.read_table("clusters.parquet", ["cluster"])["cluster"]))
    return CardFacts(stages, sizes["language"], sizes["license"], sizes["source"], sizes["kind"], edits, clusters)


def _edited(table: pa.Table, edits: pa.Table, alive: np.ndarray) -> pa.Table:
    """The kept rows with their replacements made; a file that was edited gets the id of its new content."""
    kept = table.filter(pa.array(alive))
    if edits.num_rows == 0:
        return kept
    position = np.cumsum(alive) - 1
    ids, contents = kept["id"].to_pylist(), kept["content"].to_pylist()
    by_row: dict[int, list[dict[str, object]]] = {}
    for edit in edits.to_pylist():
        if alive[edit["row"]]:
            by_row.setdefault(edit["row"], []).append(edit)
    for row, changes in by_row.items():
        at = int(position[row])
        contents[at] = apply_edits(contents[at], [(c["start"], c["end"], c["replacement"]) for c in changes])  # type: ignore[misc]
        ids[at] = hashlib.sha256(contents[at].encode()).hexdigest()
    kept = kept.set_column(kept.schema.get_field_index("id"), CORPUS.field("id"), pa.array(ids))
    content = pa.array(contents, pa.large_string())
    return kept.set_column(kept.schema.get_field_index("content"), CORPUS.field("content"), content)


def apply_edits(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """Replace the character ranges [start, end) of `text`, given in ascending order.

    Raises:
        RunError: ranges overlap or lie outside the text.
    """
    parts, at = [], 0
    for start, end, replacement in edits:
        if start < at or end < start or end > len(text):
            raise RunError(f"edits overlap or exceed the text at character {start}")
        parts += [text[at:start], replacement]
        at = end
    return "".join([*parts, text[at:]])


def _funnel(collected: Artifact, stage_names: Sequence[str], totals: Sequence[ShardTotals]) -> list[Stage]:
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


def _merge_dropped(collected: Artifact, shards: Sequence[str], output: ArtifactWriter) -> None:
    """Everything dropped: what never came in, then shard by shard."""
    parts = itertools.chain(collected.tables(["dropped.parquet"]), output.tables(f"{_WORK}/{s}" for s in shards))
    output.write_tables("dropped.parquet", DROPPED, parts)
