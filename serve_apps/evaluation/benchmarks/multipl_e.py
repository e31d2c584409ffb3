"""MultiPL-E: HumanEval and MBPP in other languages. A program is prompt, completion and tests in one file."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import Program
from serve_apps.sandbox.toolchains import language

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
        name = language(self.language).name
        stops = [(*r["stop_tokens"], "<file_sep>") for r in records]
        return [
            Task(r["name"], r["prompt"], stop, record=r, language=name) for r, stop in zip(records, stops, strict=True)
        ]

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        known = language(self.language)
        tasks = "161" if self.subset.startswith("humaneval") else "396"
        return Facts(f"up to {tasks}", known.name, ", ".join(known.tools), "hub nuprl/MultiPL-E")

    def job(self, task: Task, completion: str) -> Program:
        """The whole file; its exit code decides."""
        return Program(self.language, task.prompt + completion + "\n" + task.record["tests"], tests_last=True)


BENCHMARKS = tuple(
    MultiplE(f"multiple-{'mbpp-' if origin == 'mbpp' else ''}{short}", f"{origin}-{short}", short)
    for origin in ("humaneval", "mbpp")
    for short in LANGUAGES
)
