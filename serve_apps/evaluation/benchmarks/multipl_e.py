"""MultiPL-E: HumanEval and MBPP in other languages. A program is prompt, completion and tests in one file."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import Program

FIELDS = ("name", "language", "prompt", "tests", "stop_tokens")
LANGUAGES = (  # MultiPL-E's own names
    "adb", "clj", "cpp", "cs", "d", "dart", "elixir", "go", "hs", "java", "jl", "js",
    "lua", "ml", "php", "pl", "r", "rb", "rkt", "rs", "scala", "sh", "swift", "ts",
)  # fmt: skip


@dataclass(frozen=True)
class MultiplE:
    """One language of one of the two: `multiple-cpp`, `multiple-mbpp-rs`."""

    name: str
    subset: str
    language: str
    samples: int = 50
    max_tokens: int = 512

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The hub's records, or those of a file."""
        records = (
            read_records(source, FIELDS) if source else hub_records("nuprl/MultiPL-E", self.subset, "test", FIELDS)
        )
        return [Task(r["name"], r["prompt"], (*r["stop_tokens"], "<file_sep>"), record=r) for r in records]

    def job(self, task: Task, completion: str) -> Program:
        """The whole file; its exit code decides."""
        return Program(self.language, task.prompt + completion + "\n" + task.record["tests"], tests_last=True)


BENCHMARKS = tuple(
    MultiplE(f"multiple-{'mbpp-' if origin == 'mbpp' else ''}{short}", f"{origin}-{short}", short)
    for origin in ("humaneval", "mbpp")
    for short in LANGUAGES
)
