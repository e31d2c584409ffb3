"""Benchmarks by name; each is one small file."""

import importlib

from serve_apps.evaluation.benchmarks.benchmark import Benchmark
from starloom.errors import UserError

MODULES = {
    "humaneval": "serve_apps.evaluation.benchmarks.humaneval",
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: there is none.
    """
    if name not in MODULES:
        raise UserError(f"benchmark {name!r} is unknown; known: {', '.join(sorted(MODULES))}")
    found: Benchmark = importlib.import_module(MODULES[name]).BENCHMARK
    return found
