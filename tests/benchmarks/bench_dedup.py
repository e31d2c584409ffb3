"""Near-deduplication: the kernel, the whole step beside datatrove and rensa, recall, precision, growth, two workers.

`make bench-dedup`; with `--measure MEGABYTES CPUS` it is the child process that times our step once Ray is up.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from data_jobs.comments import licence_header
from data_jobs.near_duplicates import kernel
from data_jobs.near_duplicates.config import DeduplicateConfig
from data_jobs.near_duplicates.reading import reading_of
from starloom.artifact import Artifact
from starloom.schema import CORPUS
from starloom.step import run_step
from tests.benchmarks.code_corpus import code_corpus
from tests.benchmarks.harness import best_seconds, cores, ensure_environment, finish, table

COMPARED_MB, SMALL_MB, LARGE_MB, DATATROVE_MB, BRUTE_FILES = 400.0, 100.0, 1600.0, 20.0, 5000
THRESHOLD, NGRAM, PERMUTATIONS = 0.7, 5, 256
PEERS = Path(__file__).with_name("peers")
DATATROVE = ("datatrove[processing]==0.10.0", "pyarrow", "spacy", "nltk")
RENSA = ("rensa==0.5.0", "pyarrow")


def measure(megabytes: float, cpus: int) -> dict[str, Any]:
    """Seconds of the step on a running local Ray of `cpus`, and the driver's peak memory; the second of two runs."""
    import ray

    from data_jobs import deduplicate

    source = code_corpus(megabytes)
    code_corpus(DATATROVE_MB)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=1 << 30, log_to_driver=False)
    seconds = 0.0
    for warm in (code_corpus(DATATROVE_MB), source):
        root = tempfile.mkdtemp()
        started = time.perf_counter()
        made = run_step(deduplicate.STEP, deduplicate.DeduplicateConfig(), root=root, name="duplicates", needs=[warm])
        seconds = time.perf_counter() - started
        shutil.rmtree(root)
    ray.shutdown()
    peak = _peak_mb()
    counts, details = made.manifest.counts, made.manifest.details
    return {
        "seconds": seconds,
        "mb": source.manifest.details["megabytes"],
        "peak_mb": peak,
        "kept": counts.rows_out,
        **details,
    }


def _peak_mb() -> float:
    # not getrusage: its maximum survives exec, so that a child begins with its parent's peak
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measured(megabytes: float, cpus: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_dedup", "--measure", str(megabytes), str(cpus)]
    return _last_json(command)


def _last_json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def texts_of(source: Artifact, limit: int | None = None) -> pa.ChunkedArray:
    """The contents of all shards, or the first `limit` of them."""
    tables = [source.read_table(name, ["content"]) for name in source.files("data/")]
    merged = pa.concat_tables(tables)["content"]
    return merged[:limit] if limit is not None else merged


def signature_speed(source: Artifact) -> tuple[float, float]:
    """MB/s of one core: our kernel, and datasketch's `update_batch` over the same hashed shingles."""
    texts = kernel.Texts.of(texts_of(source))
    megabytes, plain = len(texts.data) / 1e6, kernel.Reading.plain(texts, NGRAM)
    ours = best_seconds(lambda: kernel.sign(texts, plain, count=PERMUTATIONS, seed=1, bands=42, rows=6))
    from datasketch import MinHash

    few = min(300, len(texts))
    contents = [bytes(texts.data[texts.offsets[n] : texts.offsets[n + 1]]) for n in range(few)]
    hashed = [(kernel.shingle_hashes(one, NGRAM) & np.uint64(0xFFFFFFFF)).tolist() for one in contents]

    def theirs() -> None:
        for shingles in hashed:
            sketch = MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32", hashfunc=lambda value: value)
            if shingles:
                sketch.update_batch(shingles)

    return megabytes / ours, sum(map(len, contents)) / 1e6 / best_seconds(theirs, repeats=1)


def brute_force(rows: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """All pairs with Jaccard at least the threshold, from the full matrix of shared n-grams."""
    table = pa.Table.from_pylist(rows, schema=CORPUS)
    texts = kernel.Texts.of(table["content"])
    sets, offsets = kernel.shingle_sets(texts, np.arange(len(texts)), reading_of(table, texts, DeduplicateConfig()))
    _, columns = np.unique(sets, return_inverse=True)
    matrix = csr_matrix((np.ones(len(sets), np.int32), columns, offsets))
    sizes = np.diff(offsets)
    pairs = set()
    for start in range(0, len(texts), 250):
        shared = (matrix[start : start + 250] @ matrix.T).toarray()
        union = sizes[start : start + 250, None] + sizes[None, :] - shared
        rows, others = np.nonzero((shared >= THRESHOLD * union) & (union > 0))
        pairs |= {(int(a) + start, int(b)) for a, b in zip(rows, others, strict=True) if a + start < b}
    return pairs


def recall_and_precision(source: Artifact) -> tuple[float, float, int, int]:
    """Recall over brute force, precision of removals by Python's own sets, the pairs and the removals looked at."""
    import ray

    from data_jobs import deduplicate
    from tests.data_jobs.corpora import artifact

    rows = [row for name in source.files("data/") for row in source.read_table(name).to_pylist()][:BRUTE_FILES]
    with tempfile.TemporaryDirectory() as root:
        first = artifact(Path(root), "collected", [rows[n : n + 500] for n in range(0, len(rows), 500)])
        ray.init(address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=False)
        made = run_step(deduplicate.STEP, deduplicate.DeduplicateConfig(), root=root, name="duplicates", needs=[first])
        ray.shutdown()
        clusters = made.read_table("clusters.parquet").to_pylist()
    cluster_of = {row["path"]: row["cluster"] for row in clusters}
    pairs = brute_force(rows)
    paths = [row["path"] for row in rows]
    found = [
        pair
        for pair in pairs
        if paths[pair[0]] in cluster_of and cluster_of[paths[pair[0]]] == cluster_of.get(paths[pair[1]])
    ]
    contents = {row["path"]: row["content"] for row in rows}
    removed = [row for row in clusters if not row["kept"]]
    right = [row for row in removed if _alike(contents[row["path"]], contents[row["via_path"]])]
    return len(found) / len(pairs), len(right) / len(removed), len(pairs), len(removed)


# the kernel's words for text without scripts that have no blanks
WORDS = re.compile(r"\w+|[-+*/%=<>!&|^~?@\u00ac\u00b1\u00d7\u00f7\u2190-\u2194\u2200-\u22ff]+")


def _alike(left: str, right: str) -> bool:
    grams = []
    for text in (left, right):
        words = WORDS.findall(text[licence_header(text) :])
        grams.append({tuple(words[n : n + NGRAM]) for n in range(len(words) - NGRAM + 1)})
    union = grams[0] | grams[1]
    if not union:
        return "".join(left.split()) == "".join(right.split())
    return len(grams[0] & grams[1]) / len(union) >= THRESHOLD


def peers(processes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What datatrove and rensa take, on all cores."""
    small, compared = code_corpus(DATATROVE_MB), code_corpus(COMPARED_MB)
    with tempfile.TemporaryDirectory() as work:
        python = ensure_environment("datatrove", DATATROVE)
        command = [str(python), str(PEERS / "datatrove_dedup.py"), small.path("data"), work, str(processes)]
        datatrove = _last_json(command)
    python = ensure_environment("rensa", RENSA)
    rensa = _last_json([str(python), str(PEERS / "rensa_dedup.py"), compared.path("data"), str(processes)])
    datatrove["mb"], rensa["mb"] = small.manifest.details["megabytes"], compared.manifest.details["megabytes"]
    return datatrove, rensa


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("MEGABYTES", "CPUS"))
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(float(options.measure[0]), int(options.measure[1]))))
        return
    workers = cores()
    kernel_speed, datasketch_speed = signature_speed(code_corpus(SMALL_MB))
    small, large = measured(SMALL_MB, workers), measured(LARGE_MB, workers)
    compared, alone = measured(COMPARED_MB, workers), measured(COMPARED_MB, 1)
    datatrove, rensa = peers(workers)
    recall, precision, pairs, removed = recall_and_precision(code_corpus(SMALL_MB))
    runs = [("starloom", small), ("starloom", compared), ("starloom", large), ("datatrove 0.10", datatrove)]
    rows = [(name, run["mb"], run["seconds"], run["mb"] / run["seconds"], run.get("peak_mb", "")) for name, run in runs]
    rows.append(("rensa 0.5 (sketches in a pool)", rensa["mb"], rensa["seconds"], rensa["mb"] / rensa["seconds"], ""))
    rows.append(("starloom, one worker", alone["mb"], alone["seconds"], alone["mb"] / alone["seconds"], ""))
    print(table(f"Parquet to kept files, {workers} cores", ("pipeline", "MB", "seconds", "MB/s", "driver MB"), rows))
    print(
        table("Signatures, one core", ("route", "MB/s"), [("kernel", kernel_speed), ("datasketch", datasketch_speed)])
    )
    print(f"recall over {pairs} pairs of {BRUTE_FILES} files; precision over {removed} removals\n")
    speed = compared["mb"] / compared["seconds"]
    finish(
        "dedup",
        {
            "signatures_mb_per_s_per_core": kernel_speed,
            "end_to_end_mb_per_s": speed,
            "end_to_end_over_datatrove": speed / (datatrove["mb"] / datatrove["seconds"]),
            "end_to_end_over_rensa": speed / (rensa["mb"] / rensa["seconds"]),
            "recall": recall,
            "precision": precision,
            "growth": (large["seconds"] / large["mb"]) / (small["seconds"] / small["mb"]),
            "driver_peak_mb_small": small["peak_mb"],
            "driver_peak_mb_large": large["peak_mb"],
            "two_worker_speedup": alone["seconds"] / compared["seconds"],
        },
        packages=("scipy",),
    )


if __name__ == "__main__":
    main()
