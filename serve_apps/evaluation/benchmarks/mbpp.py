"""MBPP and MBPP+: short Python functions from one sentence and its asserts."""

import ast
import builtins
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.mutants import python_mutants
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import JudgedPython
from serve_apps.sandbox.sandbox import Tests
from starloom.errors import UserError
from starloom.jsonlines import Record

STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```", "<file_sep>")
TEST_SPLIT = range(11, 511)  # of the full file


@dataclass(frozen=True)
class Mbpp:
    """InCoder's prompt, as BigCode's harness has it: a docstring of the sentence and the first assert."""

    name: str
    hub: tuple[str, str | None]
    split: range | None = None  # which tasks of a file with others too
    samples: int = 15
    max_tokens: int = 512

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The hub's tasks or a file's; of the full MBPP its test split, tasks 11 to 510.

        Raises:
            UserError: the data cannot be read, or are evalplus's own form, whose inputs are no tests yet.
        """
        fields = ("task_id", "test_list")
        if source is None:
            records = hub_records(*self.hub, "test", fields)
        else:
            records = read_records(source, fields, self._refuse_plus_inputs)
        tested = [r for r in records if int(r["task_id"]) in self.split] if self.split else records
        return [Task(f"MBPP/{r['task_id']}", _prompt(r), STOPS, record=r) for r in tested or records]

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("500" if self.split else "378", needs="-" if self.split else "numpy", data=f"hub {self.hub[0]}")

    def _refuse_plus_inputs(self, record: Record) -> None:
        if "plus_input" in record:
            raise UserError(
                f"benchmark {self.name}: this file holds inputs (plus_input) in place of tests; give evalplus's"
                " MbppPlus-OriginFmt.jsonl, or the hub's evalplus/mbppplus as a file"
            )

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The asserts in the judge, with those names of the program that they use."""
        record = task.record
        imports = record.get("test_imports") or []
        setup = "\n".join([*imports, record.get("test_setup_code") or ""])
        tests = record.get("test") or "\n".join(record["test_list"])
        names = names_under_test(record.get("code") or "", f"{setup}\n{tests}")
        return JudgedPython(task.prompt + completion, Tests(setup, tests, names))

    def reference(self, task: Task) -> str | None:
        """The record's own solution."""
        return task.record.get("code")

    def mutants(self, task: Task) -> Sequence[str]:
        """The solution made wrong."""
        return python_mutants(task.record.get("code") or "")


def _prompt(record: Record) -> str:
    sentence = record.get("text") or record.get("prompt") or ""
    return f'"""\n{sentence}\n{record["test_list"][0]}\n"""\n'


def names_under_test(reference: str, tests: str) -> tuple[str, ...]:
    """Names that tests take from the tested code, in the order of the alphabet.

    Those that the reference solution defines and the tests read as globals. Without a reference: names that are read,
    and that neither the tests nor Python define.
    """
    try:
        read = set(_globals_read(symtable.symtable(tests, "tests.py", "exec")))
        defined = set(_defined(ast.parse(reference)))
    except SyntaxError:  # the judge says what is wrong with it
        return ()
    if defined:
        return tuple(sorted(read & defined))
    return tuple(sorted(read - set(dir(builtins))))


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that a module defines at its top level, imports aside."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _globals_read(table: symtable.SymbolTable) -> Iterator[str]:
    """Global names that a module and its functions read and the module does not bind."""
    bound = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    tables = [table]
    for inner in tables:
        tables += inner.get_children()
        for symbol in inner.get_symbols():
            everywhere = symbol.is_global() or inner is table
            if symbol.is_referenced() and everywhere and symbol.get_name() not in bound:
                yield symbol.get_name()


BENCHMARKS = (
    Mbpp("mbpp", ("google-research-datasets/mbpp", "full"), TEST_SPLIT),
    Mbpp("mbppplus", ("evalplus/mbppplus", None)),
)
