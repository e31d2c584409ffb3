"""Replace personal data and secrets: one table of edits per collected shard, no text."""

from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main


class RedactConfig(Config):
    """Which detectors look: built in, or ``module:function`` returning findings (names by a model, for example)."""

    detectors: tuple[str, ...] = ("emails", "addresses", "secrets")


def run(config: RedactConfig, context: StepContext) -> Outcome:
    """Find e-mail and IP addresses, keys, tokens and passwords in every surviving file and write their edits."""
    from data_jobs.redacting import redact_corpus

    return redact_corpus(config, context)


STEP = Step(config=RedactConfig, run=run, produces="decisions")

if __name__ == "__main__":
    main(STEP)
