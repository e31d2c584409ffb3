"""Benchmarks by name; each module holds some. A user's own is ``MODULE:ATTRIBUTE``."""

import importlib
import re
from functools import cache

from serve_apps.evaluation.benchmarks.benchmark import Benchmark, Facts
from starloom import plugins
from starloom.errors import UserError

MODULES = (
    "humaneval", "mbpp", "multipl_e", "humanevalpack", "infilling", "ds1000",
    "livecodebench", "bigcodebench", "cruxeval", "repositories",
)  # fmt: skip
_DATE = r"\d{4}-\d{2}(?:-\d{2})?"
_WINDOW = re.compile(rf"livecodebench-({_DATE})(?:-to-({_DATE}))?")


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All known benchmarks by name."""
    found: dict[str, Benchmark] = {}
    for module in MODULES:
        for known in importlib.import_module(f"{__name__}.{module}").BENCHMARKS:
            assert known.name not in found, f"two benchmarks are named {known.name}"
            found[known.name] = known
    return found


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or the one that ``MODULE:ATTRIBUTE`` names.

    Raises:
        UserError: there is none.
    """
    window = _WINDOW.fullmatch(name)
    if window is not None:
        windowed: Benchmark = benchmarks()["livecodebench"].window(window[1], window[2] or "")  # type: ignore[attr-defined]
        return windowed
    if ":" not in name and name not in benchmarks() and name not in plugins.installed("benchmarks"):
        families = "humaneval, mbpp, multiple-LANGUAGE, humanevalfix-LANGUAGE, infilling-single-line, ds1000"
        remedy = f"such as {families}, or MODULE:ATTRIBUTE of your own; --benchmarks lists all"
        raise UserError(f"benchmark {name!r} is unknown; {remedy}")
    return plugins.load(name, benchmarks(), what="benchmark", group="benchmarks")


def described_benchmarks() -> list[str]:
    """A line for each: name, tasks, samples a task, languages, what it needs, where its data come from."""
    rows = [("name", "tasks", "n", "languages", "needs", "data")]
    for known in (*benchmarks().values(), *plugins.offered("benchmarks")):
        facts = getattr(known, "facts", None)
        about = facts() if facts is not None else Facts()
        rows.append((known.name, about.tasks, str(known.samples), about.languages, about.needs, about.data))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
