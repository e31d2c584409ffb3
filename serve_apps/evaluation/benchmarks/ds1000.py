"""DS-1000: data science questions on seven libraries; tasks whose library is not installed are left out by name."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import InstalledPython
from starloom.errors import UserError

MODULES = {
    "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "sklearn", "matplotlib": "matplotlib",
    "pytorch": "torch", "tensorflow": "tensorflow",
}  # fmt: skip
STOPS = ("</code>", "# SOLUTION END", "\nEND SOLUTION", "<file_sep>")


@dataclass(frozen=True)
class Ds1000:
    """A record's own `code_context` tests: it runs the completion in the place that the question leaves.

    Such tests compare arrays and frames in the completion's own process, so exit codes decide here.
    """

    name: str = "ds1000"
    samples: int = 40
    max_tokens: int = 1024

    def tasks(self, source: str | None) -> Sequence[Task]:
        """Tasks of the libraries that are there.

        Raises:
            UserError: none of the libraries is installed.
        """
        fields = ("prompt", "code_context", "metadata")
        records = read_records(source, fields) if source else hub_records("xlangai/DS-1000", None, "test", fields)
        found = []
        for number, record in enumerate(records):
            library = _metadata(record).get("library", "").lower()
            if importlib.util.find_spec(MODULES.get(library, library) or "-") is not None:
                found.append(Task(f"DS-1000/{library}/{number}", record["prompt"], STOPS, record=record))
        if not found:
            raise UserError("benchmark ds1000: none of its libraries is installed; pip install numpy pandas scipy")
        return found

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("1000", needs="numpy, pandas, ...", data="hub xlangai/DS-1000")

    def job(self, task: Task, completion: str) -> InstalledPython:
        """The context's tests, called with the completion as text."""
        context = task.record["code_context"]
        calls = [f"test_execution({completion!r})"]
        if "def test_string(" in context:
            calls.append(f"test_string({completion!r})")
        return InstalledPython("\n".join([context, *calls]))

    def reference(self, task: Task) -> str | None:
        """The record's own solution."""
        return task.record.get("reference_code")

    def mutants(self, task: Task) -> Sequence[str]:
        """A solution that ends in an error."""
        return ["raise ValueError('a mutant')"]


def _metadata(record: dict[str, Any]) -> dict[str, Any]:
    value = record["metadata"]
    return dict(json.loads(value)) if isinstance(value, str) else dict(value)


BENCHMARKS = (Ds1000(),)
