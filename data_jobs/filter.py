"""Quality filter: one decision table per collected shard, no text."""

from collections.abc import Mapping
from typing import Any

from data_jobs.languages import load_languages
from data_jobs.quality import RULES, QualityLimits, SourceFile, judge, load_rules
from data_jobs.verdicts import Verdict, decide
from starloom.config import Config
from starloom.kinds import Decisions
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class FilterConfig(Config):
    """Which rules apply, in order, and their limits."""

    rules: tuple[str, ...] = tuple(RULES)
    limits: QualityLimits = QualityLimits()
    languages: str | None = None


def run(config: FilterConfig, context: StepContext) -> Outcome:
    """Judge every collected file by the quality rules; dropped ones get the first rule's reason."""
    languages = load_languages(config.languages).by_name
    rules = load_rules(config.rules)

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        language = languages.get(row["language"])
        if language is None or row["kind"] != "file":
            return None
        return judge(SourceFile(row["path"], row["content"], language, config.limits), rules)

    return decide(context, verdict, columns=("path", "language", "kind", "content"))


STEP = Step(config=FilterConfig, run=run, produces=Decisions.kind)

if __name__ == "__main__":
    main(STEP)
