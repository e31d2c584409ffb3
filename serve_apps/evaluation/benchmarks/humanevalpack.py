"""HumanEvalPack: HumanEval to synthesize, to fix, and to write again from an explanation.

Go's tests import testify, as Debian's package has it; Rust's run under its own test harness, without crates. A task
that needs more is invalid here and says so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import EXPLANATION, Facts, Task
from serve_apps.evaluation.benchmarks.humaneval import without_function
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import Job, JudgedPython, Program
from serve_apps.sandbox.sandbox import Tests
from serve_apps.sandbox.toolchains import language

LANGUAGES = {
    "python": "Python", "js": "JavaScript", "cpp": "C++", "java": "Java", "go": "Go", "rust": "Rust tests",
}  # fmt: skip
STOPS = {
    "python": ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"),
    "js": ("\nfunction", "\n//", "\nconst", "\nconsole.log", "\n```"),
    "cpp": ("\nint main", "\n//", "\n#include", "\n```"),
    "java": ("\npublic class", "\nimport", "\n```"),
    "go": ("\n//", "\nfunc main(", "\nstruct", "\nfunc", "\n```"),
    "rust": ("\nfn main", "\n//", "\n#[cfg(test)]", "\n```"),
}
# a failed console.assert only prints: a program of tests must end with it
PREAMBLE = {"js": "console.assert = require('node:assert');"}
EXPLANATION_CHARACTERS = 512
FIELDS = ("task_id", "prompt", "declaration", "canonical_solution", "buggy_solution", "test", "entry_point")


@dataclass(frozen=True)
class HumanEvalPack:
    """`kind`: synthesize, fix (the prompt shows a wrong solution) or explain (it shows the model's own explanation)."""

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
        return [self._task(record) for record in records]

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        name = LANGUAGES[self.short]
        return Facts("164", name, ", ".join(language(name).tools) or "-", "hub bigcode/humanevalpack")

    def _task(self, record: Mapping[str, Any]) -> Task:
        task = Task(
            record["task_id"],
            self._prompt(record),
            STOPS[self.short],
            record=record,
            language=LANGUAGES[self.short],
        )
        if self.kind != "explain":
            return task
        # the model explains the solution, in as many characters as its docstring has; then it writes it from that
        room = len(str(record.get("docstring") or "")) or EXPLANATION_CHARACTERS
        asked = f"Provide a concise natural language description of the code using at most {room} characters."
        code = f"{record['declaration']}{record['canonical_solution']}"
        return replace(task, first=f"{code}\n{asked}\n", first_characters=room)

    def _prompt(self, record: Mapping[str, Any]) -> str:
        if self.kind == "fix":
            wrong = f"{record['declaration']}{record['buggy_solution']}\n{record['test']}\n"
            return f"{wrong}\nFix bugs in {record['entry_point']}.\n\n{record['declaration']}"
        if self.kind == "explain":
            asked = f"Write functional code in {LANGUAGES[self.short]} according to the description."
            return f"{EXPLANATION}\n{asked}\n\n{record['declaration']}"
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
        if self.short == "go":
            return Program("Go", go_file(record, source), tests_last=True)
        parts = [PREAMBLE.get(self.short), record.get("import"), record.get("test_setup"), source, record["test"]]
        return Program(LANGUAGES[self.short], "\n".join(part for part in parts if part), tests_last=True)

    def reference(self, task: Task) -> str | None:
        """The record's own solution."""
        return task.record.get("canonical_solution")

    def mutants(self, task: Task) -> Sequence[str]:
        """The record's solution with a bug that people put there."""
        return [task.record["buggy_solution"]]


def go_file(record: Mapping[str, Any], source: str) -> str:
    """One test file: those imports of the record that are used, for Go takes no others, then code and tests."""
    given = "\n".join(str(record.get(key) or "") for key in ("import", "test_setup"))
    code = f"{source}\n{record['test']}"
    named = dict.fromkeys(re.findall(r'"([\w./-]+)"', given))
    used = [name for name in named if re.search(rf"\b{re.escape(name.rsplit('/', 1)[-1])}\.", code)]
    imports = "\n".join(f'    "{name}"' for name in dict.fromkeys([*used, "fmt"]))
    return f"package main\n\nimport (\n{imports}\n)\n\n{code}"


BENCHMARKS = tuple(
    HumanEvalPack(f"humaneval{kind}-{short}", kind, short)
    for kind in ("synthesize", "fix", "explain")
    for short in LANGUAGES
)
