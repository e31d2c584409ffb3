"""Ten million small rows of made-up code through policy, filter, deduplicate and curate: seconds and memory.

    python -m tests.benchmarks.bench_scale [--rows 10000000]

The rows are functions of random names and operators below a comment, one in twenty nearly a copy of another and one in
fifty a copy; a third has no licence. Nothing of a shard depends on another one, so that tasks make them.
"""

import argparse
import hashlib
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_jobs import curate, deduplicate, policy
from data_jobs import filter as quality
from data_jobs.shards import map_shards, shard_name
from starloom import schema
from starloom.artifact import Artifact
from starloom.config import Config, validate
from starloom.kinds import DROPPED_FILE, Collected, data_file
from starloom.schema import CORPUS
from starloom.step import Outcome, Step, StepContext, run_step
from tests.benchmarks.bench_curate import watched
from tests.benchmarks.harness import BENCH, cores, finish, table

ROWS_PER_SHARD = 50_000
WORDS = (
    *("load", "parse", "read", "write", "update", "merge", "split", "count", "find", "filter", "sort", "hash", "index"),
    *("cache", "token", "user", "order", "item", "price", "file", "path", "node", "tree", "graph", "queue", "stack"),
    *(
        "batch",
        "shard",
        "block",
        "page",
        "query",
        "table",
        "row",
        "column",
        "key",
        "value",
        "state",
        "event",
        "message",
    ),
)
LICENSES = (["MIT"], ["Apache-2.0"], ["GPL-3.0-only"], [], ["MIT OR GPL-2.0-only"], [])
STAGES: tuple[tuple[str, Step, dict[str, Any]], ...] = (
    ("policy", policy.STEP, {"licenses": "permissive_or_none"}),
    ("quality", quality.STEP, {}),
    ("duplicates", deduplicate.STEP, {}),
    ("corpus", curate.STEP, {}),
)


class ScaleConfig(Config):
    """How many rows."""

    rows: int


def function(generator: random.Random, lines: int) -> str:
    """A small function, different for each state of the generator."""
    name, argument = (f"{generator.choice(WORDS)}_{generator.randrange(1_000_000)}" for _ in range(2))
    body = [
        f"    {generator.choice(WORDS)}_{generator.randrange(10_000)} = {argument}.{generator.choice(WORDS)}"
        f"({generator.randrange(1000)}) {generator.choice('+-*%')} {generator.choice(WORDS)}"
        for _ in range(lines)
    ]
    return "\n".join([f"# {' '.join(generator.choices(WORDS, k=6))}", f"def {name}({argument}):", *body, ""])


def _shard(number: int, rows: int, context: StepContext) -> int:
    name = data_file(shard_name(number))
    if context.output.exists(name):
        return rows
    made = []
    for n in range(rows):
        row = number * ROWS_PER_SHARD + n
        generator = random.Random(row)
        chance = generator.random()
        if chance < 0.07 and row:  # of any row before, in any shard
            generator = random.Random(generator.randrange(row))
            generator.random()
        content = function(generator, 4 + generator.randrange(5))
        if 0.02 < chance < 0.07:
            content += f"    return {row}\n"
        made.append(
            {
                "id": hashlib.sha256(content.encode()).hexdigest(),
                "repo_name": f"owner{row % 9973}/repo{row % 131}",
                "path": f"src/{row}.py",
                "language": "Python",
                "licenses": LICENSES[row % len(LICENSES)],
                "license_source": "LICENSE (1.00)",
                "stars": row % 100,
                "source": "made",
                "kind": "file",
                "encoding": "utf-8",
                "content": content,
            }
        )
    context.output.write_table(name, pa.Table.from_pylist(made, schema=CORPUS))
    return rows


def _make(config: ScaleConfig, context: StepContext) -> Outcome:
    starts = list(range(0, config.rows, ROWS_PER_SHARD))

    def work(number: int) -> int:
        return _shard(number, min(ROWS_PER_SHARD, config.rows - number * ROWS_PER_SHARD), context)

    rows = sum(map_shards(list(range(len(starts))), work, name="make"))
    context.output.write_table(DROPPED_FILE, schema.DROPPED.empty_table())
    context.output.write_table(Collected.LICENSES, schema.LICENSES.empty_table())
    return Outcome(rows_in=rows, rows_out=rows)


def stage(name: str, rows: int, root: Path) -> None:
    """Run one stage on what the stages before have left; a process of its own, as in a recipe."""
    made = Step(config=ScaleConfig, run=_make, produces=Collected.kind)
    done: list[Artifact] = [run_step(made, ScaleConfig(rows=rows), root=str(root), name="collected")]
    for known, step, settings in STAGES:
        if name == "collected":
            return
        done.append(
            run_step(step, validate(step.config, settings, where=known), root=str(root), name=known, needs=list(done))
        )
        if known == name:
            return


def measured(name: str, rows: int) -> tuple[float, dict[str, float]]:
    """Seconds of a stage, and the most memory of each kind of its processes."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--rows", str(rows), "--stage", name]
    return watched(command, BENCH / "scale" / f"{name}.log")


def main() -> None:
    """Print the table and the line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = BENCH / "scale" / "run"
    if arguments.stage:
        stage(arguments.stage, arguments.rows, root)
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    figures: dict[str, float | int | None] = {"rows": arguments.rows}
    rows = []
    for name in ("collected", *(known for known, _, _ in STAGES)):
        seconds, peak = measured(name, arguments.rows)
        million = seconds / arguments.rows * 1e6
        figures[f"{name}_seconds_per_million"], figures[f"{name}_driver_mb"] = million, round(peak["driver"])
        figures[f"{name}_all_mb"] = round(peak["all"])
        rows.append([name, seconds, million, peak["driver"], peak["workers"], peak["all"]])
    columns = ["stage", "seconds", "seconds per million rows", "driver MB", "workers MB", "all MB"]
    print(table(f"{arguments.rows:,} rows with Ray on {cores()} cores", columns, rows))
    finish("scale", figures)


if __name__ == "__main__":
    main()
