"""BigCodeBench: functions that use many libraries, with unit tests that look into them."""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import InstalledPython

FIELDS = ("task_id", "complete_prompt", "canonical_solution", "test", "entry_point")
STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nprint", "\nif __name__", "\n```", "<file_sep>")
RUN = """
import unittest
_found = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(TestCases))
assert _found.testsRun and _found.wasSuccessful(), "a test failed"
"""


@dataclass(frozen=True)
class BigCodeBench:
    """Its tests patch the functions' own module, so that they run in the program's process, under a seal."""

    name: str = "bigcodebench"
    samples: int = 1
    max_tokens: int = 1280

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("1140", needs="its 139 libraries", data="hub bigcode/bigcodebench")

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The hub's records, or those of a file."""
        hub = "bigcode/bigcodebench"
        records = read_records(source, FIELDS) if source else hub_records(hub, None, "v0.1.4", FIELDS)
        return [Task(r["task_id"], r["complete_prompt"], STOPS, record=r) for r in records]

    def job(self, task: Task, completion: str) -> InstalledPython:
        """Prompt, completion and test case in one program."""
        return InstalledPython("\n".join([task.prompt + completion, task.record["test"], RUN]))

    def reference(self, task: Task) -> str | None:
        """The record's own solution."""
        return str(task.record["canonical_solution"])

    def mutants(self, task: Task) -> Sequence[str]:
        """A function that does nothing, and one that ends in an error."""
        return ["    return 'a mutant'\n", "    raise ValueError('a mutant')\n"]


BENCHMARKS = (BigCodeBench(),)
