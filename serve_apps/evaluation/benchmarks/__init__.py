"""Benchmarks by name; each module holds some. A user's own is ``MODULE:ATTRIBUTE``."""

import importlib
from functools import cache

from serve_apps.evaluation.benchmarks.benchmark import Benchmark
from starloom import plugins
from starloom.errors import UserError

MODULES = ("humaneval", "mbpp", "multipl_e", "humanevalpack", "infilling", "ds1000")


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
    if ":" not in name and name not in benchmarks():
        families = "humaneval, mbpp, multiple-LANGUAGE, humanevalfix-LANGUAGE, infilling-single-line, ds1000"
        raise UserError(f"benchmark {name!r} is unknown; such as {families}, or MODULE:ATTRIBUTE of your own")
    return plugins.load(name, benchmarks(), what="benchmark")
