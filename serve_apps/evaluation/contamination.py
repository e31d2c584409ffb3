"""What decontamination took out of a corpus for a benchmark: shown beside the benchmark's score."""

from collections.abc import Sequence
from typing import Any

from serve_apps.evaluation.benchmarks.benchmark import Task
from starloom.artifact import Artifact
from starloom.contamination import Match
from starloom.kinds import Corpus


def contamination(corpus: Artifact, tasks: Sequence[Task]) -> dict[str, Any]:
    """``{"checked", "files_removed", "tasks_found"}`` of a corpus artifact for the tasks of a benchmark.

    Removed files name the task that they held. `checked` is False when no file was held against any benchmark: a corpus
    made without that step tells nothing.
    """
    view, ids = Corpus(corpus), {task.id for task in tasks}
    found: list[str] = []
    for row in view.dropped(["reason", "detail"]).to_pylist():
        match = Match.read(row["reason"], row["detail"])
        if match is not None:
            found += [identifier for identifier in match.possible_ids() if identifier in ids][:1]
    checked = bool(found) or bool(view.benchmarks())
    return {"checked": checked, "files_removed": len(found), "tasks_found": len(set(found))}
