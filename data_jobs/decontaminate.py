"""Keep benchmarks out of the corpus: by exact substring and by near duplicate of their solutions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from data_jobs.benchmarks.tasks import Benchmark, MatchLimits, benchmark_state
from data_jobs.verdicts import OF_FILES, Verdict, decide
from starloom.config import Config
from starloom.kinds import Decisions
from starloom.program import main
from starloom.step import Outcome, Step, StepContext


class DecontaminateConfig(Config):
    """Which benchmarks, and how alike is too alike."""

    benchmarks: tuple[Benchmark, ...] = (Benchmark(name="HumanEval", path="humaneval"),)
    min_characters: int = Field(40, gt=0)  # of a normalized text: shorter ones are everybody's code
    min_ngrams: int = Field(15, gt=0)  # of a solution, for near duplicates
    containment: float = Field(0.7, gt=0, le=1)  # share of a solution's 5-grams of words that a file holds

    @property
    def limits(self) -> MatchLimits:
        """The numbers without the benchmarks."""
        return MatchLimits(self.min_characters, self.min_ngrams, self.containment)


def run(config: DecontaminateConfig, context: StepContext) -> Outcome:
    """Drop files that hold a benchmark's text, or nearly one of its solutions; the detail names the task."""
    # brings numba: not for those who only look at the config
    from data_jobs.benchmarks.matching import build_matcher

    matcher = build_matcher(config.benchmarks, config.limits)
    context.say(f"{len(matcher.substrings)} texts and {len(matcher.tasks)} solutions of benchmarks")

    def verdict(row: Mapping[str, Any]) -> Verdict | None:
        # made once in each worker: the automaton is larger than what it is made from
        found = build_matcher(config.benchmarks, config.limits).match(row["content"])
        return Verdict(found.reason, found.detail) if found else None

    decided = decide(context, verdict, columns=("content",))
    return replace(decided, details={Decisions.BENCHMARKS: [benchmark.name for benchmark in config.benchmarks]})


def source_state(config: DecontaminateConfig) -> Any:
    """A hash of every benchmark's file."""
    return benchmark_state(config.benchmarks)


STEP = Step(
    config=DecontaminateConfig,
    run=run,
    produces=Decisions.kind,
    version=2,
    source_state=source_state,
    consumes=OF_FILES,
)

if __name__ == "__main__":
    main(STEP)
