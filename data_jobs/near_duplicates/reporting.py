"""What deduplication did: sizes of clusters, losses per source and language, the largest clusters by example."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_jobs.near_duplicates.clusters import ClusterMember
from data_jobs.near_duplicates.signing import SignedShard

LARGEST = 20
EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """`content` is written as duplicates.json; `alarms` name each source that lost more than the set share."""

    content: dict[str, Any]
    alarms: tuple[str, ...]


def report(
    shards: Sequence[SignedShard],
    clusters: Sequence[Sequence[ClusterMember]],
    facts: Mapping[int, Mapping[str, Any]],
    alarm_share: float,
) -> Report:
    """Count what was dropped against all files that came in."""
    members = [member for cluster in clusters for member in cluster if member.file != member.survivor]
    dropped = [facts[member.file] for member in members if not facts[member.file]["remembered"]]
    sources = _losses([shard.sources for shard in shards], Counter(row["source"] or "" for row in dropped))
    languages = _losses([shard.languages for shard in shards], Counter(row["language"] or "" for row in dropped))
    sizes = Counter(len(cluster) for cluster in clusters)
    largest = sorted(clusters, key=lambda cluster: (-len(cluster), cluster[0].survivor))[:LARGEST]
    alarms = tuple(
        f"source {name or 'without a name'} loses {loss['dropped']:,} of {loss['files']:,} files as duplicates"
        for name, loss in sources.items()
        if loss["dropped"] > alarm_share * loss["files"]
    )
    content = {
        "cluster_sizes": {str(size): sizes[size] for size in sorted(sizes)},
        "sources": sources,
        "languages": languages,
        "largest": [
            {
                "files": len(cluster),
                "survivor": _name(facts[cluster[0].survivor]),
                "examples": [_name(facts[m.file]) for m in cluster if m.file != m.survivor][:EXAMPLES],
            }
            for cluster in largest
        ],
        "alarms": list(alarms),
    }
    return Report(content, alarms)


def _losses(counted: Sequence[Mapping[str, int]], dropped: Counter[str]) -> dict[str, dict[str, int]]:
    files: Counter[str] = Counter()
    for counts in counted:
        files.update(counts)
    return {name: {"files": files[name], "dropped": dropped[name]} for name in sorted(files)}


def _name(facts: Mapping[str, Any]) -> str:
    return f"{facts['repo_name']}/{facts['path']}"
