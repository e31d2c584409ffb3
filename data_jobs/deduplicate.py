"""Exact and near deduplication: MinHash LSH finds candidates, exact Jaccard decides, one file of a cluster is kept.

With ``signatures`` (of `data_jobs.remember`) among its inputs the files are compared with those corpora too, and those
files all stay.
"""

from data_jobs.near_duplicates.config import DeduplicateConfig
from data_jobs.near_duplicates.memory import SIGNATURES
from data_jobs.verdicts import OF_FILES
from starloom.kinds import Decisions
from starloom.program import main
from starloom.step import Count, Outcome, Step, StepContext


def run(config: DeduplicateConfig, context: StepContext) -> Outcome:
    """Drop all but one file of every cluster of duplicates; write the decisions and the cluster table."""
    from data_jobs.near_duplicates.pipeline import deduplicate

    return deduplicate(config, context)


STEP = Step(
    config=DeduplicateConfig,
    run=run,
    produces=Decisions.kind,
    version=3,
    consumes={**OF_FILES, SIGNATURES: Count.ANY},
)

if __name__ == "__main__":
    main(STEP)
