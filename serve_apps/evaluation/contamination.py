"""What decontamination took out of a corpus for a benchmark: shown beside the benchmark's score."""

from collections.abc import Sequence
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Task
from starloom.artifact import Artifact

REASONS = ("benchmark_text", "benchmark_solution")


def contamination(corpus: Artifact, tasks: Sequence[Task]) -> dict[str, Any]:
    """``{"checked", "files_removed", "tasks_found"}`` of a corpus artifact for the tasks of a benchmark.

    Removed files name the task that they held. `checked` is False when no file was held against any benchmark: a corpus
    made without that step tells nothing.
    """
    if not corpus.has("dropped.parquet"):
        return {"checked": False, "files_removed": 0, "tasks_found": 0}
    dropped = corpus.read_table("dropped.parquet", ["reason", "detail"]).to_pylist()
    words = {task.id: 0 for task in tasks}
    removed = 0
    for row in dropped:
        if row["reason"] in REASONS:
            # "HumanEval HumanEval/12" or "HumanEval HumanEval/12, 0.83 of its 5-grams"
            named = [word for word in row["detail"].replace(",", " ").split() if word in words]
            removed += bool(named)
            for word in named:
                words[word] += 1
    stages = [entry["stage"] for entry in corpus.read_json("funnel.json")] if corpus.has("funnel.json") else []
    checked = removed > 0 or any("decontaminat" in stage for stage in stages)
    return {"checked": checked, "files_removed": removed, "tasks_found": sum(count > 0 for count in words.values())}
