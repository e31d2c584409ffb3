"""What deduplication did: sizes of clusters, losses per source and language, the largest clusters by example."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_jobs.near_duplicates.deciding import LARGEST, GroupCount
from data_jobs.near_duplicates.signing import SignedShard


@dataclass(frozen=True)
class Report:
    """`content` is written as duplicates.json; `alarms` name each source that lost more than the set share."""

    content: dict[str, Any]
    alarms: tuple[str, ...]


def report(shards: Sequence[SignedShard], counts: Sequence[GroupCount], alarm_share: float) -> Report:
    """Count what was dropped against all files that came in."""
    sizes: Counter[int] = Counter()
    dropped: dict[str, Counter[str]] = {"sources": Counter(), "languages": Counter()}
    for count in counts:
        sizes.update(count.sizes)
        dropped["sources"].update(count.sources)
        dropped["languages"].update(count.languages)
    sources = _losses([shard.sources for shard in shards], dropped["sources"])
    languages = _losses([shard.languages for shard in shards], dropped["languages"])
    several = (cluster for count in counts for cluster in count.largest)
    largest = sorted(several, key=lambda cluster: (-cluster.files, cluster.survivor_number))[:LARGEST]
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
            {"files": cluster.files, "survivor": cluster.survivor, "examples": list(cluster.examples)}
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
