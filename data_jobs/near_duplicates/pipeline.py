"""The work of `data_jobs.deduplicate`: sign, find candidates, verify, connect, decide. Each stage leaves files.

The driver holds a few numbers of each shard and of each group of components, and nothing of a file or a pair.
"""

from collections import Counter

from data_jobs.near_duplicates import candidates, connecting, deciding, verification
from data_jobs.near_duplicates.config import DeduplicateConfig, choose_bands
from data_jobs.near_duplicates.memory import SIGNATURES, recall_shards
from data_jobs.near_duplicates.reporting import report
from data_jobs.near_duplicates.signing import FOLDER, sign_shards
from starloom.kinds import Collected, Decisions, shard_names
from starloom.schema import CLUSTERS
from starloom.step import Outcome, StepContext


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
    rows = verification.wanted_rows(shards, output)
    verification.prepare_shingles(found.shards, rows, shards, collected, config, output)
    verified = verification.verify(found.pairs, shards, config, output)
    context.say(f"{found.pairs:,} candidate pairs, {verified.pairs:,} of them alike enough")

    groups = connecting.connect(verified, output)
    counts = deciding.decide_groups(groups, shards, context.name, config.strict, output)
    output.write_tables(
        Decisions.CLUSTERS, CLUSTERS, output.tables(deciding.clusters_file(group.number) for group in groups)
    )
    losses = report(shards, counts, config.alarm_share)
    output.write_json(Decisions.DUPLICATES, losses.content)
    for alarm in losses.alarms:
        context.say(f"warning: {alarm}; look at duplicates.json")
    for folder in (FOLDER, candidates.EDGES, verification.SHINGLES, verification.VERIFIED):
        output.remove(folder)
    for folder in (connecting.CONNECTED, deciding.DECIDED):
        output.remove(folder)
    details = {
        "bands": bands.count,
        "rows": bands.rows,
        "candidate_pairs": found.pairs,
        "verified_pairs": verified.pairs,
        "clusters": sum(count.clusters for count in counts),
        "largest_cluster": max((size for count in counts for size in count.sizes), default=0),
    }
    dropped: Counter[str] = Counter()
    for count in counts:
        dropped.update(count.reasons)
    return Outcome(alive, alive - dropped.total(), dict(sorted(dropped.items())), details)
