"""Stage 5: of every cluster one file is kept; tables of clusters and of what is dropped, a task per group of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_jobs.licenses.expressions import rank
from data_jobs.near_duplicates import verification
from data_jobs.near_duplicates.arrays import load_slice
from data_jobs.near_duplicates.clusters import ClusterMember, resolve
from data_jobs.near_duplicates.connecting import EDGES, SCORES, Group
from data_jobs.near_duplicates.signing import SignedShard, bases_of
from data_jobs.shards import map_shards
from starloom.artifact import ArtifactWriter
from starloom.kinds import decisions_file
from starloom.schema import CLUSTERS, DECISIONS

EXACT, NORMALIZED, NEAR = "exact_duplicate", "normalized_duplicate", "near_duplicate"
DECIDED = ".decided"
SHARDS_PER_TASK = 64
LARGEST, EXAMPLES = 20, 3
_DROPPED = pa.schema([pa.field("file", pa.int64()), *(DECISIONS.field(name) for name in ("reason", "detail"))])

Facts = Mapping[int, dict[str, Any]]  # of a group's files, by number


@dataclass(frozen=True)
class LargeCluster:
    """A cluster by example."""

    files: int
    survivor_number: int
    survivor: str
    examples: tuple[str, ...]


@dataclass
class GroupCount:
    """What one group contributes to the report."""

    reasons: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)  # dropped files
    languages: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)  # clusters by their number of files
    largest: list[LargeCluster] = field(default_factory=list)

    @property
    def clusters(self) -> int:
        """How many there are."""
        return self.sizes.total()


def decide_groups(
    groups: Sequence[Group], shards: Sequence[SignedShard], stage: str, strict: bool, output: ArtifactWriter
) -> list[GroupCount]:
    """Decide about every group, then write the decisions of every shard that is not remembered."""
    counts: list[GroupCount] = map_shards(groups, lambda one: _decide(one, shards, strict, output), name="decide")
    new = [number for number, shard in enumerate(shards) if not shard.known]
    chunks = [new[n : n + SHARDS_PER_TASK] for n in range(0, len(new), SHARDS_PER_TASK)]
    map_shards(chunks, lambda chunk: _gather(chunk, len(groups), shards, stage, output), name="decisions")
    return counts


def clusters_file(group: int) -> str:
    """Where the clusters of a group are (schema.CLUSTERS)."""
    return f"{DECIDED}/clusters-{group:06d}.parquet"


def _dropped_file(group: int) -> str:
    return f"{DECIDED}/dropped-{group:06d}.parquet"


def _decide(group: Group, shards: Sequence[SignedShard], strict: bool, output: ArtifactWriter) -> GroupCount:
    edges = load_slice(EDGES, group.start, group.stop, output)
    facts = _facts(np.unique(edges), shards, output)
    clusters = resolve(edges, lambda file: _preference(facts[file]), strict=strict)
    scores = load_slice(SCORES, group.start, group.stop, output)
    similar = _similar_to_survivor(clusters, edges, scores, shards, output)
    count = GroupCount()
    rows: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for cluster in clusters:
        for member in cluster:
            mine, kept = facts[member.file], facts[member.survivor]
            stays = member.file == member.survivor or mine["remembered"]
            rows.append(_row(member, facts, similar[member.file], stays))
            if not stays:
                reason, detail = _reason(mine, kept, similar[member.file])
                dropped.append({"file": member.file, "reason": reason, "detail": detail})
                count.reasons[reason] += 1
                count.sources[mine["source"] or ""] += 1
                count.languages[mine["language"] or ""] += 1
        count.sizes[len(cluster)] += 1
    largest = sorted(clusters, key=lambda cluster: (-len(cluster), cluster[0].survivor))[:LARGEST]
    count.largest = [_by_example(cluster, facts) for cluster in largest]
    output.write_table(clusters_file(group.number), pa.Table.from_pylist(rows, schema=CLUSTERS))
    dropped.sort(key=lambda row: row["file"])
    output.write_table(_dropped_file(group.number), pa.Table.from_pylist(dropped, schema=_DROPPED))
    return count


def _facts(files: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter) -> dict[int, dict[str, Any]]:
    bases = bases_of(shards)
    facts: dict[int, dict[str, Any]] = {}
    columns = [*verification.FACTS, verification.NORMAL]
    for number in np.unique(np.searchsorted(bases, files, side="right") - 1).tolist():
        mine = files[(files >= bases[number]) & (files < bases[number + 1])]
        table = verification.prepared(shards[number], ["row", *columns], output)
        at = np.searchsorted(table["row"].to_numpy(), mine - bases[number])
        rows = table.select(columns).take(pa.array(at)).to_pylist()
        remembered = {"remembered": shards[number].known is not None}
        facts.update((file, {**row, **remembered}) for file, row in zip(mine.tolist(), rows, strict=True))
    return facts


def _preference(facts: Mapping[str, Any]) -> tuple[object, ...]:
    """Remembered files first, permissive licence, stars, then repository, path and id: the least is kept."""
    return (
        not facts["remembered"],
        rank(facts["licenses"]),
        -(facts["stars"] or 0),
        facts["repo_name"],
        facts["path"],
        facts["id"],
    )


def _similar_to_survivor(
    clusters: Sequence[Sequence[ClusterMember]],
    edges: np.ndarray,
    scores: np.ndarray,
    shards: Sequence[SignedShard],
    output: ArtifactWriter,
) -> dict[int, float]:
    """Each member's similarity to the survivor: known where the two were a verified pair, else computed."""
    known = {(a, b): score for (a, b), score in zip(edges.tolist(), scores.tolist(), strict=True)}
    links = {m.file: (min(m.file, m.survivor), max(m.file, m.survivor)) for cluster in clusters for m in cluster}
    known.update(((file, file), 1.0) for file in links)
    missing = sorted({link for link in links.values() if link not in known})
    found = verification.similarities(np.array(missing, dtype=np.int64).reshape(-1, 2), shards, output)
    known.update(zip(missing, found.tolist(), strict=True))
    return {file: known[link] for file, link in links.items()}


def _row(member: ClusterMember, facts: Facts, similarity: float, stays: bool) -> dict[str, Any]:
    mine, kept, via = facts[member.file], facts[member.survivor], facts[member.via]
    return {
        "cluster": member.survivor,
        "repo_name": mine["repo_name"],
        "path": mine["path"],
        "kept": stays,
        "survivor_repo": kept["repo_name"],
        "survivor_path": kept["path"],
        "jaccard": similarity,
        "via_repo": via["repo_name"],
        "via_path": via["path"],
    }


def _reason(mine: Mapping[str, Any], kept: Mapping[str, Any], score: float) -> tuple[str, str]:
    survivor = _name(kept)
    if mine["id"] == kept["id"]:
        return EXACT, f"same bytes as {survivor}"
    if mine[verification.NORMAL] == kept[verification.NORMAL]:
        return NORMALIZED, f"white space alone differs from {survivor}"
    return NEAR, f"Jaccard {score:.3f} with {survivor}"


def _by_example(cluster: Sequence[ClusterMember], facts: Facts) -> LargeCluster:
    survivor = cluster[0].survivor
    others = [_name(facts[member.file]) for member in cluster if member.file != survivor]
    return LargeCluster(len(cluster), survivor, _name(facts[survivor]), tuple(others[:EXAMPLES]))


def _name(facts: Mapping[str, Any]) -> str:
    return f"{facts['repo_name']}/{facts['path']}"


def _gather(
    numbers: Sequence[int], groups: int, shards: Sequence[SignedShard], stage: str, output: ArtifactWriter
) -> None:
    """Write the decisions of some neighbouring shards, from what all groups have dropped."""
    bases = bases_of(shards)
    first, last = int(bases[numbers[0]]), int(bases[numbers[-1] + 1])
    inside = (pc.field("file") >= first) & (pc.field("file") < last)
    parts = [output.read_table(_dropped_file(group)).filter(inside) for group in range(groups)]
    table = pa.concat_tables([_DROPPED.empty_table(), *parts]).sort_by("file")
    files = table["file"].to_numpy()
    for number in numbers:
        start, stop = np.searchsorted(files, bases[number : number + 2])
        mine = table.slice(start, stop - start)
        rows = pa.array((files[start:stop] - bases[number]).astype(np.int32))
        columns = {"row": rows, "stage": [stage] * mine.num_rows, "reason": mine["reason"], "detail": mine["detail"]}
        output.write_table(decisions_file(shards[number].name), pa.table(columns, schema=DECISIONS))
