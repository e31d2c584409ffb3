"""Signatures of corpora that stay: written by `data_jobs.remember`, read by `data_jobs.deduplicate` for a new batch."""

from collections.abc import Sequence
from typing import Any

from data_jobs.near_duplicates.config import SketchConfig, choose_bands
from data_jobs.near_duplicates.signing import SignedShard, read_fields, sign_shards, signed_rows
from data_jobs.near_duplicates.verification import prepare_shingles
from starloom.artifact import Artifact
from starloom.errors import UserError
from starloom.kinds import Collected, Decisions, shard_names
from starloom.step import Outcome, StepContext

WORDS = 2  # how texts are taken apart into words; raise it when that changes
SIGNATURES = "signatures"  # the kind of artifact


def remember(config: SketchConfig, context: StepContext) -> Outcome:
    """Run the step; see `data_jobs.remember`."""
    collected, output = context.only(Collected.kind), context.output
    shards = sign_shards(shard_names(collected), collected, context.every(Decisions.kind), config, output)
    files, _ = read_fields(shards, [], output)
    prepare_shingles(
        range(len(shards)), lambda number: signed_rows(shards[number], output), shards, collected, config, output
    )
    rows = {shard.name: shard.rows for shard in shards if shard.alive}
    return Outcome(len(files), len(files), details={"sketch": sketch_of(config), "shards": rows})


def sketch_of(config: SketchConfig) -> dict[str, Any]:
    """What two sketches must have in common to be compared."""
    bands = choose_bands(config.permutations, config.least_threshold, config.recall)
    settings = {"words": WORDS, "ngram": config.ngram, "permutations": config.permutations, "seed": config.seed}
    languages = {name: rule.ngram for name, rule in sorted(config.languages.items()) if rule.ngram}
    return {**settings, "bands": bands.count, "rows": bands.rows, "languages": languages}


def recall_shards(remembered: Sequence[Artifact], config: SketchConfig) -> list[SignedShard]:
    """The shards of remembered corpora, in the order of the artifacts.

    Raises:
        UserError: one was made with other settings.
    """
    wanted = sketch_of(config)
    shards = []
    for artifact in remembered:
        found = artifact.manifest.details["sketch"]
        for name, value in wanted.items():
            if found.get(name, 1) != value:
                raise UserError(
                    f"needs: {artifact.name} was made with {name} = {found.get(name, 1)}, this step has {value}; "
                    "give both the same ngram, permutations, seed, threshold and recall"
                )
        rows = artifact.manifest.details["shards"]
        shards += [SignedShard(name, rows[name], 0, {}, {}, known=artifact) for name in sorted(rows)]
    return shards
