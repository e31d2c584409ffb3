"""Remember what deduplication needs of a corpus: later batches are compared with it without reading its text again."""

from data_jobs.near_duplicates.config import SketchConfig
from data_jobs.verdicts import OF_FILES
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


def run(config: SketchConfig, context: StepContext) -> Outcome:
    """Write signatures, n-gram sets and names of every file that the decisions left in."""
    from data_jobs.near_duplicates.memory import remember

    return remember(config, context)


STEP = Step(
    config=SketchConfig,
    run=run,
    produces="signatures",
    version=2,
    consumes=OF_FILES,
)

if __name__ == "__main__":
    main(STEP)
