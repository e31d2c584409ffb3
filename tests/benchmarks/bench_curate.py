"""Speed of curation per stage and core, its memory by size of input, and how well personal data is found.

    python -m tests.benchmarks.bench_curate [--sizes 100 400 1600]

The corpus is code from Debian's source packages, as plain files in folders. The stages are measured in one process
without Ray (that is a core's own speed), the whole pipeline and its memory with Ray on all cores.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_jobs import (
    collect,
    curate,
    decontaminate,
    deduplicate,
    policy,
    redact,
    verdicts,
)
from data_jobs import filter as quality
from data_jobs.personal_data.redaction import find_all
from data_jobs.sources import inventory
from starloom.artifact import Artifact
from starloom.config import validate
from starloom.step import Step, run_step
from tests.benchmarks.code_corpus import fetched
from tests.benchmarks.harness import BENCH, ROOT, cores, finish, table
from tests.benchmarks.real_findings import real_precision
from tests.data_jobs.planted_secrets import planted, score

STAGES_MEGABYTES = 100
SAMPLE_SECONDS = 0.3
MEMORY = ("all", "driver", "workers", "object store", "Ray's services")
MAP_STAGES: tuple[tuple[str, Step, dict[str, Any]], ...] = (
    ("collected", collect.STEP, {}),
    ("policy", policy.STEP, {"licenses": "any"}),
    ("quality", quality.STEP, {}),
    ("benchmarks", decontaminate.STEP, {}),
    ("personal", redact.STEP, {}),
    ("corpus", curate.STEP, {}),
)


def source_tree(megabytes: int) -> Path:
    """Hard links to a sample of the packages' files, of this size in all: larger ones hold the smaller ones."""
    folder = BENCH / "curate" / f"code-{megabytes}"
    if (folder / ".complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    code = fetched()
    files = [Path(base, name) for base, _, names in os.walk(code) for name in names if not name.endswith(".deb")]
    plain = [path for path in files if path.is_file() and not path.is_symlink() and path.name != ".complete"]
    plain.sort(key=lambda path: hashlib.blake2b(str(path.relative_to(code)).encode()).digest())
    taken = 0
    for path in plain:
        size = path.stat().st_size
        if size > 1 << 20:
            continue
        if taken > megabytes * 1e6:
            break
        taken += size
        parts = path.relative_to(code).parts
        target = folder / parts[0] / "/".join(parts[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    (folder / ".complete").touch()
    return folder


def run_stages(stages: Sequence[tuple[str, Step, dict[str, Any]]], code: Path, root: Path) -> dict[str, float]:
    """Run the stages one after the other into an empty root; seconds of each."""
    shutil.rmtree(root, ignore_errors=True)
    done: list[Artifact] = []
    seconds = {}
    for name, step, settings in stages:
        if name == "collected":
            settings = {"sources": [{"kind": "folder", "path": str(code), "repositories": "children"}]}
        config = validate(step.config, settings, where=name)
        started = time.perf_counter()
        done.append(run_step(step, config, root=str(root), name=name, needs=list(done)))
        seconds[name] = time.perf_counter() - started
    return seconds


def serial(items: Sequence[Any], work: Callable[[Any], Any], **_: Any) -> list[Any]:
    """`map_shards` in this process."""
    return [work(item) for item in items]


def stage_speeds() -> dict[str, float]:
    """Seconds of each map stage on one core, without Ray."""
    for module in (collect, inventory, verdicts, redact, curate):
        module.map_shards = serial  # type: ignore[attr-defined]
    code = source_tree(STAGES_MEGABYTES)
    return run_stages(MAP_STAGES, code, BENCH / "curate" / "run-stages")


def whole_run(megabytes: int) -> tuple[float, dict[str, float]]:
    """Seconds of the whole pipeline, duplicates included, and the most memory of each kind of its processes."""
    source_tree(megabytes)
    command = [sys.executable, "-m", "tests.benchmarks.bench_curate", "--only-run", str(megabytes)]
    return watched(command, BENCH / "curate" / f"run-{megabytes}.log")


def watched(command: Sequence[str], log_file: Path) -> tuple[float, dict[str, float]]:
    """Seconds of a command, and the most memory of each kind of its processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    started = time.perf_counter()
    with open(log_file, "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        peak = dict.fromkeys(MEMORY, 0.0)
        while process.poll() is None:
            held = tree_megabytes(process.pid)
            peak = {kind: max(most, held[kind]) for kind, most in peak.items()}
            time.sleep(SAMPLE_SECONDS)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command[-2:])} failed; see {log_file}")
    return time.perf_counter() - started, peak


def tree_megabytes(root: int) -> dict[str, float]:
    """Memory of a process and all below it, by kind; pages that several of them share count once (PSS).

    `object store` is Ray's shared memory, whoever maps it; it is bounded by Ray's own setting, not by the corpus.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # it has ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    waiting, total = [root], dict.fromkeys(MEMORY, 0.0)
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if "kB" in line}
        shared = kilobytes.get("Pss_Shmem", 0)
        kind = "driver" if pid == root else "workers" if name.startswith((b"ray::", b"-c")) else "Ray's services"
        total["object store"] += shared / 1000
        total[kind] += (kilobytes["Pss"] - shared) / 1000
        total["all"] += kilobytes["Pss"] / 1000
    return total


def main() -> None:
    """Print the tables and the line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400, 1600], help="megabytes of input")
    parser.add_argument("--only-run", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_run:
        stages = [*MAP_STAGES[:-1], ("duplicates", deduplicate.STEP, {}), MAP_STAGES[-1]]
        run_stages(stages, source_tree(arguments.only_run), BENCH / "curate" / "run-whole")
        return
    figures: dict[str, float | int | None] = {}
    seconds = stage_speeds()
    megabytes = STAGES_MEGABYTES
    rows: list[list[object]] = [[name, taken, megabytes / taken] for name, taken in seconds.items()]
    total = sum(seconds.values())
    figures["map_stages_mb_per_s_per_core"] = megabytes / total
    rows.append(["all map stages", total, megabytes / total])
    print(table(f"Stages on one core, {megabytes} MB", ["stage", "seconds", "MB/s"], rows))
    rows = []
    for size in arguments.sizes:
        taken, peak = whole_run(size)
        figures[f"peak_mb_at_{size}"] = round(peak["all"])
        figures[f"driver_peak_mb_at_{size}"] = round(peak["driver"])
        figures["whole_mb_per_s"] = size / taken
        rows.append([size, taken, size / taken, *peak.values()])
    columns = ["MB", "seconds", "MB/s", *(f"peak MB, {kind}" for kind in MEMORY)]
    print(table(f"Whole pipeline with Ray on {cores()} cores", columns, rows))
    real = real_precision()
    values = planted(2024, 3000)
    rows = []
    for kind, name in (("key", "keys"), ("email", "emails"), ("address", "addresses")):
        found = score(kind, values, find_all)
        figures[f"pii_recall_{name}"], figures[f"pii_precision_{name}"] = found.recall, found.precision
        rows.append([name, found.recall, found.precision])
    print(table("Planted personal data and look-alikes", ["kind", "recall", "precision"], rows))
    rows = []
    for kind, name in (("key", "keys"), ("email", "emails"), ("address", "addresses")):
        right, count = real.get(kind, (0, 0))
        figures[f"real_precision_{name}"] = right / count if count else None
        rows.append([name, right, count])
    print(table("Findings in eight real packages, labelled by hand", ["kind", "right", "found"], rows))
    finish("curate", figures, packages=("pygit2", "pyahocorasick", "pyaskalono"))


if __name__ == "__main__":
    main()
