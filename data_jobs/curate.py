"""Write the curated corpus: every decision and edit applied, text written for the second and last time."""

from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main


class CurateConfig(Config):
    """Nothing to set: what is in the corpus was decided by the steps before."""


def run(config: CurateConfig, context: StepContext) -> Outcome:
    """Apply all decisions and edits; write the corpus, what was dropped, the funnel and the languages."""
    from data_jobs.curating import curate

    return curate(context)


STEP = Step(config=CurateConfig, run=run, produces="corpus", version=3)

if __name__ == "__main__":
    main(STEP)
