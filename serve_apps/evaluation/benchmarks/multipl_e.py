"""MultiPL-E: HumanEval and MBPP in other languages. A program is prompt, completion and tests in one file."""

import re
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
RENAMED = {"go_test.go": "go", "ex": "elixir"}


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


def fenced_code(answer: str) -> str:
    """The code of a chat model's answer: its first fenced block, or all of it."""
    found = re.search(r"```[^\n]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return found.group(1) if found else answer


MAIN = re.compile(r"^.*\b(?:int main|fn main|func main|static void main)\s*\(", re.MULTILINE)


def whole_program(record: dict[str, str], code: str) -> Program:
    """A program of a solution that repeats the prompt, for records with such a solution (`gpt_solution`).

    MultiPL-E's tests begin with the brace that ends the tested function, and bring their own main: the solution is cut
    before its own main, and before the last brace that stands like the one of the tests.
    """
    tests = record["tests"]
    if (own := MAIN.search(code)) is not None and MAIN.search(tests):
        code = code[: own.start()]
    brace = re.match(r"[ \t]*}", tests)
    if brace is not None:
        before, found, _ = ("\n" + code).rpartition("\n" + brace.group(0))
        code = before.removeprefix("\n") if found else code
    return Program(RENAMED.get(record["language"], record["language"]), code + "\n" + tests, tests_last=True)


BENCHMARKS = tuple(
    MultiplE(f"multiple-{'mbpp-' if origin == 'mbpp' else ''}{short}", f"{origin}-{short}", short)
    for origin in ("humaneval", "mbpp")
    for short in LANGUAGES
)
