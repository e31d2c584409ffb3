"""Quality filter: one decision table per collected shard, no text."""

from data_jobs.quality import RULES, QualityLimits
from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main


class FilterConfig(Config):
    """Which rules apply, in order, and their limits."""

    rules: tuple[str, ...] = tuple(RULES)
    limits: QualityLimits = QualityLimits()
    languages: str | None = None


def run(config: FilterConfig, context: StepContext) -> Outcome:
    """Judge every collected file by the quality rules; dropped ones get the first rule's reason."""
    from data_jobs.filtering import filter_corpus

    return filter_corpus(config, context)


STEP = Step(config=FilterConfig, run=run, produces="decisions")

if __name__ == "__main__":
    main(STEP)
