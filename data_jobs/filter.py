"""Quality filter: one decision table per collected shard, no text."""

from collections.abc import Mapping
from typing import Any

from data_jobs.languages import Language, load_languages, table_state
from data_jobs.quality import RULES, QualityLimits, SourceFile, judge, judge_record, load_rules
from data_jobs.verdicts import OF_FILES, Verdict, decide
from starloom import plugins
from starloom.config import Config
from starloom.kinds import Decisions
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class FilterConfig(Config):
    """Which rules apply, in order, and their limits.

    Those of one's own judge files; notebooks, commits and issues are judged by the built-in rules that make sense.
    """

    rules: tuple[str, ...] = tuple(RULES)
    limits: QualityLimits = QualityLimits()
    languages: str | None = None


def run(config: FilterConfig, context: StepContext) -> Outcome:
    """Judge every collected file by the quality rules; dropped ones get the first rule's reason."""
    languages = load_languages(config.languages).by_name
    rules = load_rules(config.rules)
    applied = frozenset(config.rules)

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        if row["kind"] == "file":
            language = languages.get(row["language"]) or Language(name=row["language"] or "")
            return judge(SourceFile(row["path"], row["content"], language, config.limits), rules)
        return judge_record(row["kind"], row["path"], row["content"], config.limits, applied)

    return decide(context, verdict, columns=("path", "language", "kind", "content"))


def source_state(config: FilterConfig) -> Any:
    """The table of languages and the code of rules of one's own: an edit of either makes the step stale."""
    return [table_state(config.languages), plugins.code_state(config.rules, what="rules", group="rules")]


STEP = Step(
    config=FilterConfig,
    run=run,
    produces=Decisions.kind,
    version=2,
    source_state=source_state,
    consumes=OF_FILES,
)

if __name__ == "__main__":
    main(STEP)
