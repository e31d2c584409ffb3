"""The work of `data_jobs.deduplicate`: sign, find candidates, verify, connect, decide. Each stage leaves files."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_jobs.licenses.expressions import rank
from data_jobs.near_duplicates import candidates, verification
from data_jobs.near_duplicates.clusters import ClusterMember, resolve
from data_jobs.near_duplicates.config import DeduplicateConfig, choose_bands
from data_jobs.near_duplicates.memory import SIGNATURES, recall_shards
from data_jobs.near_duplicates.reporting import report
from data_jobs.near_duplicates.signing import FOLDER, SignedShard, bases_of, sign_shards
from starloom.artifact import ArtifactWriter
from starloom.kinds import Collected, Decisions, decisions_file, shard_names
from starloom.schema import CLUSTERS, DECISIONS
from starloom.step import Outcome, StepContext

EXACT, NORMALIZED, NEAR = "exact_duplicate", "normalized_duplicate", "near_duplicate"


def deduplicate(config: DeduplicateConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.deduplicate`."""
    collected, earlier, output = context.only(Collected.kind), context.every(Decisions.kind), context.output
    bands = choose_bands(config.permutations, config.least_threshold, config.recall)
    known = recall_shards(context.every(SIGNATURES), config)
    shards = [*known, *sign_shards(shard_names(collected), collected, earlier, config, output)]
    alive = sum(shard.alive for shard in shards)
    context.say(f"{alive:,} files signed; {bands.count} bands of {bands.rows} rows")

    found = candidates.find_candidates(
        shards, bands.count, config.neighbours, output, bands_per_task=config.bands_per_task
    )
    pairs = candidates.distinct_pairs([found.copies, found.similar])
    verification.prepare_shingles(np.unique(pairs), shards, collected, config, output)
    scores = verification.similarities(pairs, shards, output, edges_per_task=config.edges_per_task)
    scores[_contained(pairs, found.copies)] = 1.0
    verified = pairs[scores >= verification.thresholds(pairs, shards, config, output)]
    context.say(f"{len(pairs):,} candidate pairs, {len(verified):,} of them alike enough")

    facts = _facts(np.unique(verified), shards, output)
    clusters = resolve(verified, lambda file: _preference(facts[file]), strict=config.strict)
    similar = _similar_to_survivor(clusters, pairs, scores, shards, config, output)
    dropped = _write(clusters, facts, similar, shards, context)
    losses = report(shards, clusters, facts, config.alarm_share)
    output.write_json(Decisions.DUPLICATES, losses.content)
    for alarm in losses.alarms:
        context.say(f"warning: {alarm}; look at duplicates.json")
    for folder in (FOLDER, candidates.EDGES, verification.SHINGLES):
        output.remove(folder)
    details = {
        "bands": bands.count,
        "rows": bands.rows,
        "candidate_pairs": len(pairs),
        "verified_pairs": len(verified),
        "clusters": len(clusters),
        "largest_cluster": max((len(cluster) for cluster in clusters), default=0),
    }
    return Outcome(alive, alive - sum(dropped.values()), dict(sorted(dropped.items())), details)


def _contained(pairs: np.ndarray, some: np.ndarray) -> np.ndarray:
    width = int(max(pairs.max(initial=0), some.max(initial=0))) + 1
    mask: np.ndarray = np.isin(pairs[:, 0] * width + pairs[:, 1], some[:, 0] * width + some[:, 1])
    return mask


def _facts(files: np.ndarray, shards: Sequence[SignedShard], output: ArtifactWriter) -> dict[int, dict[str, Any]]:
    bases = bases_of(shards)
    facts: dict[int, dict[str, Any]] = {}
    for number, shard in enumerate(shards):
        mine = files[(files >= bases[number]) & (files < bases[number + 1])]
        if len(mine):
            columns = [*verification.FACTS, verification.NORMAL]
            table = verification.prepared(shard, ["row", *columns], output)
            at = np.searchsorted(table["row"].to_numpy(), mine - bases[number])
            rows = table.select(columns).take(pa.array(at)).to_pylist()
            remembered = {"remembered": shard.known is not None}
            facts.update((file, {**row, **remembered}) for file, row in zip(mine.tolist(), rows, strict=True))
    return facts


def _preference(facts: dict[str, Any]) -> tuple[object, ...]:
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
    pairs: np.ndarray,
    scores: np.ndarray,
    shards: Sequence[SignedShard],
    config: DeduplicateConfig,
    output: ArtifactWriter,
) -> dict[int, float]:
    """Each member's similarity to the survivor: known where the two were a pair, else computed."""
    known = {(a, b): score for (a, b), score in zip(pairs.tolist(), scores.tolist(), strict=True)}
    links = {m.file: (min(m.file, m.survivor), max(m.file, m.survivor)) for cluster in clusters for m in cluster}
    known.update(((file, file), 1.0) for file in links)
    missing = sorted({link for link in links.values() if link not in known})
    found = verification.similarities(
        np.array(missing, dtype=np.int64).reshape(-1, 2), shards, output, edges_per_task=config.edges_per_task
    )
    known.update(zip(missing, found.tolist(), strict=True))
    return {file: known[link] for file, link in links.items()}


def _write(
    clusters: Sequence[Sequence[ClusterMember]],
    facts: dict[int, dict[str, Any]],
    similarity: dict[int, float],
    shards: Sequence[SignedShard],
    context: StepContext,
) -> Counter[str]:
    table, dropped = [], {}
    for number, cluster in enumerate(clusters):
        for member in cluster:
            mine, kept, via = facts[member.file], facts[member.survivor], facts[member.via]
            table.append(
                {
                    "cluster": number,
                    "repo_name": mine["repo_name"],
                    "path": mine["path"],
                    "kept": member.file == member.survivor or mine["remembered"],
                    "survivor_repo": kept["repo_name"],
                    "survivor_path": kept["path"],
                    "jaccard": similarity[member.file],
                    "via_repo": via["repo_name"],
                    "via_path": via["path"],
                }
            )
            if member.file != member.survivor and not mine["remembered"]:
                dropped[member.file] = _decision(mine, kept, similarity[member.file], context.name)
    context.output.write_table(Decisions.CLUSTERS, pa.Table.from_pylist(table, schema=CLUSTERS))
    bases = bases_of(shards)
    files = np.array(sorted(dropped), dtype=np.int64)
    for number, shard in enumerate(shards):
        if shard.known:
            continue
        mine = files[(files >= bases[number]) & (files < bases[number + 1])]
        rows = [{"row": file - int(bases[number]), **dropped[file]} for file in mine.tolist()]
        context.output.write_table(decisions_file(shard.name), pa.Table.from_pylist(rows, schema=DECISIONS))
    return Counter(decision["reason"] for decision in dropped.values())


def _decision(mine: dict[str, Any], kept: dict[str, Any], score: float, stage: str) -> dict[str, str]:
    survivor = f"{kept['repo_name']}/{kept['path']}"
    if mine["id"] == kept["id"]:
        return {"stage": stage, "reason": EXACT, "detail": f"same bytes as {survivor}"}
    reason = NORMALIZED if mine[verification.NORMAL] == kept[verification.NORMAL] else NEAR
    return {"stage": stage, "reason": reason, "detail": f"Jaccard {score:.3f} with {survivor}"}
