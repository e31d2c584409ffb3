"""MBPP and MBPP+: short Python functions from one sentence and its asserts."""

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import JudgedPython
from serve_apps.sandbox.sandbox import Tests
from starloom.jsonlines import Record

STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```", "<file_sep>")


@dataclass(frozen=True)
class Mbpp:
    """InCoder's prompt, as BigCode's harness has it: a docstring of the sentence and the first assert."""

    name: str
    hub: tuple[str, str | None]
    samples: int = 15
    max_tokens: int = 512

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The test split (tasks 11 to 510 of the full file), or all of a given file that lacks the others."""
        fields = ("task_id", "test_list")
        records = read_records(source, fields) if source else hub_records(*self.hub, "test", fields)
        tested = [r for r in records if 11 <= int(r["task_id"]) <= 510] or records
        return [Task(f"MBPP/{r['task_id']}", _prompt(r), STOPS, record=r) for r in tested]

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The asserts in the judge. Names that they use and nobody else defines are the program's."""
        record = task.record
        imports = record.get("test_imports") or []
        setup = "\n".join([*imports, record.get("test_setup_code") or ""])
        tests = record.get("test") or "\n".join(record["test_list"])
        return JudgedPython(task.prompt + completion, Tests(setup, tests, tuple(called_names(tests, setup))))


def _prompt(record: Record) -> str:
    sentence = record.get("text") or record.get("prompt") or ""
    return f'"""\n{sentence}\n{record["test_list"][0]}\n"""\n'


def called_names(tests: str, setup: str) -> list[str]:
    """Names that tests read but neither they nor the setup nor Python define, in order."""
    known = set(dir(builtins))
    read: dict[str, None] = {}
    for node in [*ast.walk(ast.parse(setup)), *ast.walk(ast.parse(tests))]:
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                known.update((name.asname or name.name).partition(".")[0] for name in names)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                known.add(name)
            case ast.arg(arg=name):
                known.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                known.add(name)
            case ast.Name(id=name, ctx=ast.Load()):
                read[name] = None
    return [name for name in read if name not in known]


BENCHMARKS = (
    Mbpp("mbpp", ("google-research-datasets/mbpp", "full")),
    Mbpp("mbppplus", ("evalplus/mbppplus", None)),
)
