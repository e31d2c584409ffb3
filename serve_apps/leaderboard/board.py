"""What the leaderboard shows, as data: models × benchmarks with intervals, win rates, averages."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve_apps.evaluation.store import DONE, StoredRun


@dataclass(frozen=True)
class Cell:
    """pass@1 of a model on a benchmark, its 95 % interval, and the run that measured it.

    `tasks` were judged of `of` that the benchmark has; `invalid` could not be judged where it ran.
    """

    score: float
    low: float
    high: float
    tasks: int
    n: int
    run: str
    contaminated: str = ""  # what decontamination found, in words
    of: int = 0
    invalid: int = 0

    @property
    def partial(self) -> bool:
        """Whether tasks were left out: such a score ranks with no other."""
        return self.tasks + self.invalid < self.of


@dataclass(frozen=True)
class Row:
    """A model. `win_rate` and `average` are over the benchmarks that it was measured on as a whole.

    Both are None where there is none. `rank` is by them; models without are not ranked.
    """

    model: str
    cells: Mapping[str, Cell]
    win_rate: float | None
    average: float | None
    rank: int | None = None
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
    """The board of all finished runs.

    Of a model's runs of a benchmark the one with the most tasks is shown, and of equal ones the latest: a part never
    takes the place of the whole.
    """
    cells: dict[str, dict[str, Cell]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for run in runs:
        result = run.result()
        if run.state()["state"] != DONE or result is None:
            continue
        model = str(result["model"])
        low, high = result["interval_95"]["1"]
        judged, everything = result["tasks"], result.get("data", {}).get("tasks_of", [0, result["tasks"]])[1]
        cell = Cell(
            result["pass_at_k"]["1"],
            low,
            high,
            judged,
            result["n"],
            run.id,
            _words(result),
            everything,
            len(result.get("invalid", ())),
        )
        shown = cells.setdefault(model, {}).get(result["benchmark"])
        if shown is None or cell.tasks + cell.invalid >= shown.tasks + shown.invalid:
            cells[model][result["benchmark"]] = cell
        about = run.request().about.model_dump(exclude_none=True)
        speed = run.throughput()
        measured = {"throughput_1": speed["1"], "throughput_50": speed["50"]} if speed else {}
        facts.setdefault(model, {}).update(about | measured)
    benchmarks = tuple(sorted({name for found in cells.values() for name in found}))
    whole = {m: {b: cell.score for b, cell in found.items() if not cell.partial} for m, found in cells.items()}
    wins = win_rates(whole)
    rows = [
        Row(model, found, wins.get(model), _mean(whole[model].values()), **facts[model])
        for model, found in cells.items()
    ]
    rows.sort(key=lambda row: (row.average is None, -(row.win_rate or 0), -(row.average or 0), row.model))
    ranked = [replace(row, rank=n if row.average is not None else None) for n, row in enumerate(rows, 1)]
    return Board(tuple(ranked), benchmarks)


def _mean(values: Collection[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _words(result: Mapping[str, Any]) -> str:
    found = result.get("contamination")
    if found is None:
        return ""
    if not found["checked"]:
        return "corpus not checked"
    return f"{found['tasks_found']} tasks in the corpus, {found['files_removed']} files removed"


def win_rates(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The share of other models that a model beats on a benchmark, averaged over benchmarks; a tie is half a win.

    A model counts only where it was measured, and a benchmark only where there are two models.
    """
    rates: dict[str, list[float]] = {model: [] for model in scores}
    for name in sorted({name for found in scores.values() for name in found}):
        measured = {model: found[name] for model, found in scores.items() if name in found}
        for model, score in measured.items():
            others = [other for rival, other in measured.items() if rival != model]
            if others:
                rates[model].append(sum((score > o) + (score == o) / 2 for o in others) / len(others))
    return {model: sum(found) / len(found) for model, found in rates.items() if found}


def as_json(board: Board) -> dict[str, Any]:
    """The board for other programs."""
    rows = []
    for row in board.rows:
        facts = {name: getattr(row, name) for name in FACTS}
        scores = {name: vars(cell) | {"partial": cell.partial} for name, cell in row.cells.items()}
        ranked = {"model": row.model, "rank": row.rank, "win_rate": row.win_rate, "average": row.average}
        rows.append({**ranked, **facts, "scores": scores})
    return {"benchmarks": list(board.benchmarks), "models": rows}


def as_csv(board: Board) -> str:
    """One line a model; four columns a benchmark."""
    columns = [f"{name}{suffix}" for name in board.benchmarks for suffix in ("", " low", " high", " tasks")]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["model", "win_rate", "average", *FACTS, *columns])
    for row in board.rows:
        scores: list[Any] = []
        for name in board.benchmarks:
            cell = row.cells.get(name)
            scores += [cell.score, cell.low, cell.high, cell.tasks] if cell else ["", "", "", ""]
        facts = [_blank(getattr(row, name)) for name in FACTS]
        writer.writerow([row.model, _blank(row.win_rate), _blank(row.average), *facts, *scores])
    return text.getvalue()


FACTS: Sequence[str] = ("parameters", "licence", "sequence_length", "throughput_1", "throughput_50")


def _blank(value: Any) -> Any:
    return "" if value is None else value
