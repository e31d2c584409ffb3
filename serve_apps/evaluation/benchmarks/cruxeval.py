"""CRUXEval: what a short function returns for an input (O), or an input for which it returns that (I)."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from serve_apps.evaluation.benchmarks.benchmark import Facts, Task
from serve_apps.evaluation.benchmarks.records import hub_records, read_records
from serve_apps.sandbox.jobs import JudgedPython
from serve_apps.sandbox.sandbox import Tests

FIELDS = ("id", "code", "input", "output")
STOPS = ("[/ANSWER]", "\n", "<file_sep>")


@dataclass(frozen=True)
class CruxEval:
    """The model completes an assertion; its own part alone is run, beside the function that it was shown."""

    name: str
    kind: str  # input or output
    samples: int = 10
    max_tokens: int = 128

    def facts(self) -> Facts:
        """For ``--benchmarks``."""
        return Facts("800", data="hub cruxeval-org/cruxeval")

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The hub's records, or those of a file."""
        hub = "cruxeval-org/cruxeval"
        records = read_records(source, FIELDS) if source else hub_records(hub, None, "test", FIELDS)
        return [Task(str(r["id"]), self._prompt(r["code"], r["input"], r["output"]), STOPS, record=r) for r in records]

    def _prompt(self, code: str, given: str, returned: str) -> str:
        if self.kind == "output":
            return f"[PYTHON]\n{code}\nassert f({given}) == ??\n[/PYTHON]\n[ANSWER]\nassert f({given}) =="
        return f"[PYTHON]\n{code}\nassert f(??) == {returned}\n[/PYTHON]\n[ANSWER]\nassert f("

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The judge calls the function; what the model wrote is a literal, or a call of it."""
        code, given, returned = (str(task.record[key]) for key in ("code", "input", "output"))
        if self.kind == "output":
            source = f"def answer():\n    return ({_first(completion)})\n"
            return JudgedPython(source, Tests(code, f"assert answer() == f({given})", ("answer",)))
        call = _call(f"f({completion}")
        source = f"def answer(f):\n    return {call}\n"
        return JudgedPython(source, Tests(code, f"assert answer(f) == {returned}", ("answer",)))

    def reference(self, task: Task) -> str | None:
        """What the record says."""
        if self.kind == "output":
            return f" {task.record['output']}"
        return f"{task.record['input']}) == {task.record['output']}"

    def mutants(self, task: Task) -> Sequence[str]:
        """Another value."""
        return [" ('a mutant', ...)"] if self.kind == "output" else ["...) == ..."]


def _first(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "raise_nothing"


def _call(text: str) -> str:
    """The call of `f` that a text begins with; a text that begins with none calls nothing."""
    for end in range(len(text), 1, -1):
        if text[end - 1] != ")":
            continue
        try:
            found = ast.parse(text[:end], mode="eval").body
        except SyntaxError:
            continue
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "f":
            return ast.unparse(found)
    return "f.nothing"


BENCHMARKS = (CruxEval("cruxeval-o", "output"), CruxEval("cruxeval-i", "input"))
