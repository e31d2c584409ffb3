"""HumanEvalPack: HumanEval to synthesize, to fix, and to write again from an explanation.

Four of its six languages. The tests of the other two are no single files: Go's import testify and Rust's three crates,
which a sandbox without a network cannot fetch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Task
from serve_apps.evaluation.benchmarks.humaneval import without_function
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import Job, JudgedPython, Program
from serve_apps.sandbox.sandbox import Tests

LANGUAGES = {"python": "Python", "js": "JavaScript", "cpp": "C++", "java": "Java"}
STOPS = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"),
    "js": ("\nfunction", "\n//", "\nconst", "\nconsole.log", "\n```"),
    "cpp": ("\nint main", "\n//", "\n#include", "\n```"),
    "java": ("\npublic class", "\nimport", "\n```"),
}
# a failed console.assert only prints: a program of tests must end with it
PREAMBLE = {"js": "console.assert = require('node:assert');"}
FIELDS = ("task_id", "prompt", "declaration", "canonical_solution", "buggy_solution", "test", "entry_point")


@dataclass(frozen=True)
class HumanEvalPack:
    """`kind`: synthesize, fix (the prompt shows a wrong solution) or explain (it shows an explanation)."""

    name: str
    kind: str
    short: str
    samples: int = 20
    max_tokens: int = 512

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The hub's records, or those of a file."""
        records = (
            read_records(source, FIELDS) if source else hub_records("bigcode/humanevalpack", self.short, "test", FIELDS)
        )
        return [Task(r["task_id"], self._prompt(r), STOPS[self.short], record=r) for r in records]

    def _prompt(self, record: Mapping[str, Any]) -> str:
        if self.kind == "fix":
            wrong = f"{record['declaration']}{record['buggy_solution']}\n{record['test']}\n"
            return f"{wrong}\nFix bugs in {record['entry_point']}.\n\n{record['declaration']}"
        if self.kind == "explain":
            comment = "# " if self.short == "python" else "// "
            lines = str(record.get("docstring") or record.get("instruction") or "").strip().splitlines()
            explanation = "\n".join(comment + line for line in lines)
            return f"{explanation}\n{record['declaration']}"
        return str(record["prompt"])

    def job(self, task: Task, completion: str) -> Job:
        """Python is judged from outside; the others' tests are part of the file."""
        record = task.record
        opening = record["prompt"] if self.kind == "synthesize" else record["declaration"]
        source = opening + completion
        if self.short == "python":
            # the test's last line calls check(entry_point)
            setup = without_function(record["declaration"] + "    pass\n", record["entry_point"])
            return JudgedPython(source, Tests(setup, record["test"], (record["entry_point"],)))
        parts = [PREAMBLE.get(self.short), record.get("import"), record.get("test_setup"), source, record["test"]]
        return Program(LANGUAGES[self.short], "\n".join(part for part in parts if part), tests_last=True)


BENCHMARKS = tuple(
    HumanEvalPack(f"humaneval{kind}-{short}", kind, short)
    for kind in ("synthesize", "fix", "explain")
    for short in LANGUAGES
)
