"""Why a file is in the corpus, or what kept it out: read from the decision tables of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from starloom.artifact import Artifact
from starloom.decisions import dropped_rows, edits_of
from starloom.errors import UserError
from starloom.recipe import Recipe, resolve


@dataclass(frozen=True)
class Finding:
    """One stage's word on a file."""

    stage: str
    verdict: str


def explain(recipe: Recipe, target: str) -> list[Finding]:
    """What each stage of a run decided about ``REPO/PATH``.

    Raises:
        UserError: nothing was collected yet, or no file of that name was seen.
    """
    artifacts = [status.artifact for status in resolve(recipe) if status.artifact is not None]
    collected = [artifact for artifact in artifacts if artifact.kind == "collected"]
    if not collected:
        raise UserError(f"{recipe.root}: nothing is collected yet; run the recipe first")
    findings: list[Finding] = []
    for source in collected:
        findings += _in_collected(source, target, artifacts)
    if not findings:
        similar = [name for source in collected for name in _ending_with(source, target)]
        hint = f"did you mean {similar[0]!r}?" if similar else "no source of this run holds it"
        raise UserError(f"{target}: was never seen; {hint}")
    return findings


def _in_collected(source: Artifact, target: str, artifacts: list[Artifact]) -> list[Finding]:
    findings = []
    if source.has("dropped.parquet"):
        for row in _rows_named(source, "dropped.parquet", target):
            findings.append(Finding(source.name, f"dropped: {row['reason']}{_bracketed(row['detail'])}"))
    decisions = [a for a in artifacts if a.kind == "decisions" and _reads(a, source)]
    for name in source.files("data/"):
        for row in _rows_named(source, name, target):
            findings.append(Finding(source.name, f"collected: {row['language'] or 'no language'}, id {row['id'][:12]}"))
            findings += _decided(name.removeprefix("data/"), row["row"], target, decisions)
            if all("dropped" not in finding.verdict for finding in findings):
                findings += [Finding(a.name, "in the corpus") for a in artifacts if a.kind == "corpus"]
    return findings


def _reads(artifact: Artifact, source: Artifact) -> bool:
    return any(entry.fingerprint == source.fingerprint for entry in artifact.manifest.inputs)


def _decided(shard: str, row: int, target: str, decisions: list[Artifact]) -> Iterator[Finding]:
    for artifact in decisions:
        table = dropped_rows(shard, [artifact])
        mine = table.filter(pc.equal(table["row"], row)).to_pylist()
        for decision in mine:
            yield Finding(artifact.name, f"dropped: {decision['reason']}{_bracketed(decision['detail'])}")
        edits = edits_of(shard, [artifact])
        for edit in edits.filter(pc.equal(edits["row"], row)).to_pylist():
            yield Finding(
                artifact.name, f"{edit['kind']} at {edit['start']}–{edit['end']} became {edit['replacement']!r}"
            )
        if artifact.has("clusters.parquet"):
            yield from _cluster(artifact, target)
        if mine:
            return
        yield Finding(artifact.name, "kept")


def _cluster(artifact: Artifact, target: str) -> Iterator[Finding]:
    table = artifact.read_table("clusters.parquet")
    named = pc.binary_join_element_wise(table["repo_name"], table["path"], "/")
    for member in table.filter(pc.equal(named, target)).to_pylist():
        size = pc.sum(pc.equal(table["cluster"], member["cluster"])).as_py()
        survivor = f"{member['survivor_repo']}/{member['survivor_path']}"
        word = "survivor" if member["kept"] else f"survivor {survivor}, Jaccard {member['jaccard']:.2f}"
        yield Finding(artifact.name, f"duplicate cluster {member['cluster']} of {size} files: {word}")


def _rows_named(artifact: Artifact, name: str, target: str) -> list[dict[str, Any]]:
    columns = ["id", "repo_name", "path"] + (["language"] if name.startswith("data/") else ["reason", "detail"])
    table = artifact.read_table(name, columns)
    named = pc.binary_join_element_wise(table["repo_name"], table["path"], "/")
    mask = pc.equal(named, target)
    rows = pc.indices_nonzero(mask).to_pylist()
    return [{**record, "row": row} for row, record in zip(rows, table.filter(mask).to_pylist(), strict=True)]


def _ending_with(artifact: Artifact, target: str) -> Iterator[str]:
    suffix = "/" + target.rsplit("/", 1)[-1]
    for name in [*artifact.files("data/"), *artifact.files("dropped.parquet")]:
        table = artifact.read_table(name, ["repo_name", "path"])
        named = pc.binary_join_element_wise(table["repo_name"], table["path"], "/")
        yield from named.filter(pc.ends_with(named, suffix)).to_pylist()[:1]


def _bracketed(detail: str) -> str:
    return f" ({detail})" if detail else ""
