"""Why a file is in the corpus, or what kept it out: read from the decision tables of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from starloom.artifact import Artifact
from starloom.decisions import dropped_rows, edits_of
from starloom.errors import NotFoundError, UserError
from starloom.kinds import Collected, Corpus, Decisions
from starloom.recipe import Recipe, latest


@dataclass(frozen=True)
class Word:
    """What one stage says about a file; `dropped` when it is the one that kept it out."""

    stage: str
    text: str
    dropped: bool = False


def explain(recipe: Recipe, target: str) -> list[Word]:
    """What each stage of a run decided about ``REPO/PATH``, by what is finished: sources are not looked at.

    Raises:
        UserError: nothing was collected yet.
        NotFoundError: no file of that name was seen.
    """
    artifacts = latest(recipe)
    collected = [Collected(artifact) for artifact in artifacts if artifact.kind == Collected.kind]
    if not collected:
        raise UserError(f"{recipe.root}: nothing is collected yet; run the recipe first")
    words = [word for source in collected for word in _in_collected(source, target, artifacts)]
    if not words:
        similar = [name for source in collected for name in _ending_with(source, target)]
        hint = f"did you mean {similar[0]!r}?" if similar else "no source of this run holds it"
        raise NotFoundError(f"{target}: was never seen; {hint}")
    return words


def _in_collected(source: Collected, target: str, artifacts: Sequence[Artifact]) -> Iterator[Word]:
    name = source.artifact.name
    for row in _rows_named(source.dropped(["id", "repo_name", "path", "reason", "detail"]), target):
        yield Word(name, f"dropped: {row['reason']}{_bracketed(row['detail'])}", dropped=True)
    decisions = [Decisions(a) for a in artifacts if a.kind == Decisions.kind and _reads(a, source.artifact)]
    for shard in source.shards():
        for row in _rows_named(source.table(shard, ["id", "repo_name", "path", "language"]), target):
            yield Word(name, f"collected: {row['language'] or 'no language'}, id {row['id'][:12]}")
            decided = list(_decided(shard, row["row"], target, decisions))
            yield from decided
            if not any(word.dropped for word in decided):
                yield from (Word(a.name, "in the corpus") for a in artifacts if a.kind == Corpus.kind)


def _reads(artifact: Artifact, source: Artifact) -> bool:
    return any(entry.fingerprint == source.fingerprint for entry in artifact.manifest.inputs)


def _decided(shard: str, row: int, target: str, decisions: Sequence[Decisions]) -> Iterator[Word]:
    for view in decisions:
        stage = view.artifact.name
        table = dropped_rows(shard, [view.artifact])
        mine = table.filter(pc.equal(table["row"], row)).to_pylist()
        for decision in mine:
            yield Word(stage, f"dropped: {decision['reason']}{_bracketed(decision['detail'])}", dropped=True)
        edits = edits_of(shard, [view.artifact])
        for edit in edits.filter(pc.equal(edits["row"], row)).to_pylist():
            yield Word(stage, f"{edit['kind']} at {edit['start']}–{edit['end']} became {edit['replacement']!r}")
        yield from _cluster(view, target)
        if mine:
            return
        yield Word(stage, "kept")


def _cluster(view: Decisions, target: str) -> Iterator[Word]:
    table = view.clusters()
    if table is None:
        return
    for member in table.filter(pc.equal(_names(table), target)).to_pylist():
        size = pc.sum(pc.equal(table["cluster"], member["cluster"])).as_py()
        survivor = f"{member['survivor_repo']}/{member['survivor_path']}"
        word = "survivor" if member["kept"] else f"survivor {survivor}, Jaccard {member['jaccard']:.2f}"
        yield Word(view.artifact.name, f"duplicate cluster {member['cluster']} of {size} files: {word}")


def _names(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["repo_name"], table["path"], "/")


def _rows_named(table: pa.Table, target: str) -> list[dict[str, Any]]:
    mask = pc.equal(_names(table), target)
    rows = pc.indices_nonzero(mask).to_pylist()
    return [{**record, "row": row} for row, record in zip(rows, table.filter(mask).to_pylist(), strict=True)]


def _ending_with(source: Collected, target: str) -> Iterator[str]:
    suffix = "/" + target.rsplit("/", 1)[-1]
    columns = ["repo_name", "path"]
    for table in (*(source.table(shard, columns) for shard in source.shards()), source.dropped(columns)):
        named = _names(table)
        yield from named.filter(pc.ends_with(named, suffix)).to_pylist()[:1]


def _bracketed(detail: str) -> str:
    return f" ({detail})" if detail else ""
