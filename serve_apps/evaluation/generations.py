"""Saved completions, made elsewhere: JSON lines (plain or gzipped) or Parquet with a row for each."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from serve_apps.evaluation.answers import answered
from serve_apps.evaluation.benchmarks.benchmark import Task, cut
from serve_apps.evaluation.sampling import Sample
from starloom import jsonlines
from starloom.errors import UserError

KEYS = ("completion", "solution", "answer")


def saved_samples(path: str, tasks: Sequence[Task]) -> dict[str, list[Sample]]:
    """The samples of each task, numbered in the order of the file.

    A row has ``task_id`` and one of ``completion`` (what follows the prompt), ``solution`` (a whole program, as
    evalplus writes it) or ``answer`` (a chat model's text). Rows of other tasks are an error: they would be left out of
    the score in silence.

    Raises:
        UserError: the file cannot be read, a row is of another form or of no task, or tasks differ in their numbers.
    """
    known = {task.id: task for task in tasks}
    found: dict[str, list[Sample]] = {task.id: [] for task in tasks}
    for where, row in _rows(path):
        identifier = row.get("task_id")
        keys = [key for key in KEYS if key in row]
        if len(keys) != 1 or not isinstance(row[keys[0]], str):
            raise UserError(f"{where}: needs task_id and a text under one of {', '.join(KEYS)}")
        if identifier not in known:
            raise UserError(f"{where}: task {identifier!r} is none of the benchmark's")
        task = known[identifier]
        found[task.id].append(_sample(task, len(found[task.id]), keys[0], row[keys[0]]))
    counts = Counter(len(samples) for samples in found.values())
    if len(counts) != 1 or 0 in counts:
        missing = [name for name, samples in found.items() if not samples]
        what = f"{len(missing)} tasks have no row, such as {missing[0]}" if missing else "tasks have different numbers"
        raise UserError(f"{path}: {what}; each task needs as many rows as every other (fewer tasks: --tasks)")
    return found


def _sample(task: Task, number: int, key: str, text: str) -> Sample:
    if key == "completion":
        return Sample(task.id, number, cut(text, task.stops))
    answer = answered(task, text)
    return Sample(task.id, number, answer.completion, before=answer.before)


def _rows(path: str) -> Iterable[tuple[str, dict[str, Any]]]:
    if Path(path).suffix == ".parquet":
        return _parquet(path)
    return ((str(where), row) for where, row in jsonlines.read(path))


def _parquet(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: is no Parquet file that can be read: {error}"[:300]) from None
    for number, row in enumerate(table.to_pylist()):
        yield f"{path} row {number}", row
