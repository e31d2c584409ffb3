"""The next line of a file in its repository: RepoBench and CrossCodeEval, by exact match and edit similarity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import ExactMatch

STOPS = ("\n", "<file_sep>")
COMMENT = {"python": "#", "java": "//", "csharp": "//", "typescript": "//"}


@dataclass(frozen=True)
class RepoBench:
    """RepoBench v1.1: snippets of other files as comments, then the file up to the line."""

    name: str
    language: str
    setting: str
    samples: int = 1
    max_tokens: int = 64

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("up to 8033", self.language.capitalize(), data=f"hub tianyang/repobench_{self.language}_v1.1")

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The hub's records, or those of a file."""
        fields = ("context", "import_statement", "cropped_code", "next_line")
        hub = f"tianyang/repobench_{self.language}_v1.1"
        records = read_records(source, fields) if source else hub_records(hub, None, self.setting, fields)
        return [
            Task(f"{self.name}/{n}", self._prompt(r), STOPS, record=r, group=str(r.get("level") or ""))
            for n, r in enumerate(records)
        ]

    def _prompt(self, record: Mapping[str, Any]) -> str:
        comment = COMMENT[self.language]
        shown = []
        for one in record["context"]:
            lines = [f"Path: {one.get('path')}", *str(one.get("snippet")).splitlines()]
            shown.append("".join(f"{comment} {line}\n" for line in lines))
        return "".join(shown) + f"\n{record['import_statement']}\n{record['cropped_code']}\n"

    def job(self, task: Task, completion: str) -> ExactMatch:
        """Compare with the line that was there."""
        return ExactMatch(completion, task.record["next_line"], similarity=True)

    def reference(self, task: Task) -> str | None:
        """The line that was there."""
        return str(task.record["next_line"])

    def mutants(self, task: Task) -> Sequence[str]:
        """Another line."""
        return [f"{task.record['next_line']} x"]


@dataclass(frozen=True)
class CrossCodeEval:
    """CrossCodeEval: a line that needs other files, with what retrieval found of them where the data hold it."""

    name: str
    language: str
    samples: int = 1
    max_tokens: int = 50

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        name = {"csharp": "C#", "typescript": "TypeScript"}.get(self.language, self.language.capitalize())
        return Facts("up to 3356", name, data="line_completion*.jsonl of amazon-science/cceval (--data)")

    def tasks(self, source: str | None) -> Sequence[Task]:
        """Records of a published file."""
        fields = ("prompt", "groundtruth", "metadata")
        records = read_records(source, fields) if source else hub_records("amazon-science/cceval", None, "test", fields)
        return [Task(str(r["metadata"]["task_id"]), self._prompt(r), STOPS, record=r) for r in records]

    def _prompt(self, record: Mapping[str, Any]) -> str:
        found = record.get("crossfile_context")
        context = str(found.get("text") or "") if isinstance(found, Mapping) else ""
        return f"{context}\n{record['prompt']}" if context else str(record["prompt"])

    def job(self, task: Task, completion: str) -> ExactMatch:
        """Compare with the line that was there."""
        return ExactMatch(completion, task.record["groundtruth"], similarity=True)

    def reference(self, task: Task) -> str | None:
        """The line that was there."""
        return str(task.record["groundtruth"])

    def mutants(self, task: Task) -> Sequence[str]:
        """Another line."""
        return [f"{task.record['groundtruth']} x"]


BENCHMARKS = (
    *(
        RepoBench(f"repobench-{language}-{setting.replace('_', '-')}", language, setting)
        for language in ("python", "java")
        for setting in ("cross_file_first", "cross_file_random", "in_file")
    ),
    *(CrossCodeEval(f"crosscodeeval-{language}", language) for language in ("python", "java", "csharp", "typescript")),
)
