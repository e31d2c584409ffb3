"""Run programs in the sandbox, as a plain tool.

``python -m serve_apps.evaluation.execute --input programs.jsonl --output verdicts.jsonl``

In, one object a line: ``{"id", "language", "program", "stdin"?, "timeout"?}``; ``timeout`` is CPU seconds. Out, in the
same order: ``{"id", "status", "exit_code", "stdout", "stderr", "cpu_seconds", "wall_seconds"}``.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from serve_apps.sandbox.jobs import Program, run_jobs
from serve_apps.sandbox.sandbox import UNSAFE_FLAG, Limits, Verdict
from serve_apps.sandbox.toolchains import language, toolchain, toolchain_table
from starloom import jsonlines
from starloom.config import Config, validate
from starloom.errors import UserError, disk_error, guarded

KEYS = ("status", "exit_code", "stdout", "stderr", "cpu_seconds", "wall_seconds")


class ProgramLine(Config):
    """A line of the input. Keys that are not known are ignored: such files carry more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str | int
    language: str
    program: str
    stdin: str = ""
    timeout: float | None = Field(None, gt=0, le=3600)


def command(argv: Sequence[str]) -> int:
    """Run the programs of a file; 0 when each has a verdict, whatever it is."""
    parser = argparse.ArgumentParser(prog="python -m serve_apps.evaluation.execute", description=__doc__)
    parser.add_argument("--input", required=True, help="JSON lines: id, language, program, stdin?, timeout?")
    parser.add_argument("--output", required=True, type=Path, help="JSON lines: id, status, exit_code, ...")
    parser.add_argument("--workers", type=int, help="sandboxes at once; never more than cores (default: cores)")
    parser.add_argument("--timeout", type=float, default=5.0, help="CPU seconds of one program (default 5)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MB", help="memory of one program (default 1024)")
    parser.add_argument("--output-bytes", type=int, default=16384, help="how much of each output is kept")
    parser.add_argument(UNSAFE_FLAG, action="store_true", dest="unsafe", help="DANGEROUS where nothing isolates")
    arguments = parser.parse_args(list(argv))
    lines = list(read_programs(arguments.input))
    limits = Limits(
        cpu_seconds=arguments.timeout, memory_megabytes=arguments.memory, output_bytes=arguments.output_bytes
    )
    jobs = [Program(line.language, line.program, line.stdin, line.timeout) for line in lines]
    verdicts = run_jobs(jobs, limits, workers=arguments.workers, isolated=not arguments.unsafe)
    write_verdicts(arguments.output, (verdict_row(line, v) for line, v in zip(lines, verdicts, strict=True)))
    counts = Counter(verdict.status for verdict in verdicts)
    print(", ".join(f"{status} {count}" for status, count in sorted(counts.items())) or "no programs")
    return 0


def read_programs(path: str) -> Iterator[ProgramLine]:
    """The programs of a JSON-lines file.

    Raises:
        UserError: a broken line, a missing field, an unknown language or one whose toolchain is missing; with its line.
    """
    for where, values in jsonlines.read(path):
        program = validate(ProgramLine, values, where=where)
        known = language(program.language)
        if not toolchain(known).present:
            raise UserError(f"{where}: {known.name} is not installed; {known.install}")
        yield program


def verdict_row(line: ProgramLine, verdict: Verdict) -> dict[str, Any]:
    """The output line of a program."""
    row = {"id": line.id, **{key: getattr(verdict, key) for key in KEYS}}
    return {**row, "detail": verdict.detail} if verdict.detail else row


def write_verdicts(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the file whole or not at all."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise disk_error(error, str(path)) from None


if __name__ == "__main__":
    if "--toolchains" in sys.argv:
        print(toolchain_table())
        sys.exit(0)
    sys.exit(guarded(lambda: command(sys.argv[1:])))
