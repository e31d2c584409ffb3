"""What the leaderboard shows, as data: models × benchmarks with intervals, win rates, averages."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_apps.evaluation.store import DONE, StoredRun


@dataclass(frozen=True)
class Cell:
    """pass@1 of a model on a benchmark, its 95 % interval, and the run that measured it."""

    score: float
    low: float
    high: float
    tasks: int
    n: int
    run: str
    contaminated: str = ""  # what decontamination found, in words


@dataclass(frozen=True)
class Row:
    """A model. `win_rate` and `average` are over the benchmarks that it was measured on."""

    model: str
    cells: Mapping[str, Cell]
    win_rate: float
    average: float
    parameters: int | None = None
    licence: str | None = None
    sequence_length: int | None = None
    throughput_1: float | None = None
    throughput_50: float | None = None


@dataclass(frozen=True)
class Board:
    """All models, the best win rate first, and the benchmarks' names in order."""

    rows: tuple[Row, ...]
    benchmarks: tuple[str, ...]


def build(runs: Iterable[StoredRun]) -> Board:
    """The board of all finished runs; a later run of the same model and benchmark takes the place of an earlier one."""
    cells: dict[str, dict[str, Cell]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for run in runs:
        result = run.result()
        if run.state()["state"] != DONE or result is None:
            continue
        model = str(result["model"])
        low, high = result["interval_95"]["1"]
        cells.setdefault(model, {})[result["benchmark"]] = Cell(
            result["pass_at_k"]["1"], low, high, result["tasks"], result["n"], run.id, _words(result)
        )
        about = run.request().about.model_dump(exclude_none=True)
        speed = run.throughput()
        measured = {"throughput_1": speed["1"], "throughput_50": speed["50"]} if speed else {}
        facts.setdefault(model, {}).update(about | measured)
    benchmarks = tuple(sorted({name for found in cells.values() for name in found}))
    wins = win_rates({m: {b: cell.score for b, cell in found.items()} for m, found in cells.items()})
    rows = [
        Row(model, found, wins[model], sum(cell.score for cell in found.values()) / len(found), **facts[model])
        for model, found in cells.items()
    ]
    return Board(tuple(sorted(rows, key=lambda row: (-row.win_rate, -row.average, row.model))), benchmarks)


def _words(result: Mapping[str, Any]) -> str:
    found = result.get("contamination")
    if found is None:
        return ""
    if not found["checked"]:
        return "corpus not checked"
    return f"{found['tasks_found']} tasks in the corpus, {found['files_removed']} files removed"


def win_rates(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """BigCode's: N models are ranked on each benchmark, rank r is worth N - (r - 1), and a model's worths are averaged.

    Equal scores share the better rank; a model counts only where it was measured.
    """
    count = len(scores)
    worths: dict[str, list[int]] = {model: [] for model in scores}
    for name in {name for found in scores.values() for name in found}:
        measured = {model: found[name] for model, found in scores.items() if name in found}
        for model, score in measured.items():
            rank = 1 + sum(other > score for other in measured.values())
            worths[model].append(count - (rank - 1))
    return {model: sum(found) / len(found) for model, found in worths.items() if found}


def as_json(board: Board) -> dict[str, Any]:
    """The board for other programs."""
    rows = []
    for row in board.rows:
        facts = {name: getattr(row, name) for name in FACTS}
        scores = {name: vars(cell) for name, cell in row.cells.items()}
        rows.append({"model": row.model, "win_rate": row.win_rate, "average": row.average, **facts, "scores": scores})
    return {"benchmarks": list(board.benchmarks), "models": rows}


def as_csv(board: Board) -> str:
    """One line a model; three columns a benchmark."""
    columns = [f"{name}{suffix}" for name in board.benchmarks for suffix in ("", " low", " high")]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["model", "win_rate", "average", *FACTS, *columns])
    for row in board.rows:
        scores: list[Any] = []
        for name in board.benchmarks:
            cell = row.cells.get(name)
            scores += [cell.score, cell.low, cell.high] if cell else ["", "", ""]
        facts = [_blank(getattr(row, name)) for name in FACTS]
        writer.writerow([row.model, row.win_rate, row.average, *facts, *scores])
    return text.getvalue()


FACTS: Sequence[str] = ("parameters", "licence", "sequence_length", "throughput_1", "throughput_50")


def _blank(value: Any) -> Any:
    return "" if value is None else value
