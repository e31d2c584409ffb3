"""HumanEval infilling: a gap in a canonical solution (a line, several, a random span), filled from both sides."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.humaneval import checked_function
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import ExactMatch, JudgedPython
from starloom.errors import UserError

FIELDS = ("task_id", "entry_point", "prompt", "suffix", "canonical_solution", "test")
ORIGIN = "https://github.com/openai/human-eval-infilling (folder data)"


@dataclass(frozen=True)
class Infilling:
    """Pass by the tests of HumanEval, run on prompt + middle + suffix."""

    name: str
    file: str
    size: str
    samples: int = 1
    max_tokens: int = 512

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts(self.size, data=f"{self.file} (--data)")

    def tasks(self, source: str | None) -> Sequence[Task]:
        """Records of a published file.

        Raises:
            UserError: the file cannot be read, or is no infilling benchmark.
        """
        if source is None:
            raise UserError(f"benchmark {self.name}: give {self.file} with --data; it is published at {ORIGIN}")
        records = read_records(source, FIELDS)
        return [Task(r["task_id"], r["prompt"], (), suffix=r["suffix"], record=r) for r in records]

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The middle in its place; the judge has the helpers of the file as it was."""
        suffix = task.suffix or ""
        setup = task.prompt + str(task.record["canonical_solution"]) + suffix
        return checked_function(task.record, setup, task.prompt + completion + suffix)

    def reference(self, task: Task) -> str | None:
        """What was in the gap."""
        return task.record.get("canonical_solution")

    def mutants(self, task: Task) -> Sequence[str]:
        """A gap with an error in it: no other filling is wrong for certain."""
        return [")("]


@dataclass(frozen=True)
class SantaCoderFim:
    """SantaCoder's measure on the single-line files of three languages: the missing line, white space aside."""

    name: str = "santacoder-fim"
    samples: int = 1
    max_tokens: int = 512

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("4792", "Java, JavaScript, Python", data="hub bigcode/santacoder-fim-task")

    def tasks(self, source: str | None) -> Sequence[Task]:
        """Records of `bigcode/santacoder-fim-task`, or a file with the same fields."""
        fields = ("prompt", "suffix", "canonical_solution")
        records = (
            read_records(source, fields)
            if source
            else hub_records("bigcode/santacoder-fim-task", None, "train", fields)
        )
        names = [str(r.get("task_id") or f"{r.get('language', 'fim')}/{n}") for n, r in enumerate(records)]
        return [
            Task(name, r["prompt"], (), r["suffix"], r, group=str(r.get("language") or ""))
            for name, r in zip(names, records, strict=True)
        ]

    def job(self, task: Task, completion: str) -> ExactMatch:
        """Compare with the line that was there."""
        return ExactMatch(completion, task.record["canonical_solution"], similarity=True)

    def reference(self, task: Task) -> str | None:
        """The line that was there."""
        return task.record.get("canonical_solution")

    def mutants(self, task: Task) -> Sequence[str]:
        """Another line."""
        return [f"{task.record['canonical_solution'].rstrip()} x"]


BENCHMARKS = (
    Infilling("infilling-single-line", "HumanEval-SingleLineInfilling.jsonl.gz", "1033"),
    Infilling("infilling-multi-line", "HumanEval-MultiLineInfilling.jsonl.gz", "5815"),
    Infilling("infilling-random-span", "HumanEval-RandomSpanInfilling.jsonl.gz", "1640"),
    Infilling("infilling-random-span-light", "HumanEval-RandomSpanInfillingLight.jsonl.gz", "164"),
    SantaCoderFim(),
)
