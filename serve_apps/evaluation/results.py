"""A finished evaluation as an artifact: its score, and every sample with its verdict, under a fingerprint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starloom import jsonlines, storage
from starloom.artifact import Artifact, ArtifactWriter, fingerprint_of
from starloom.kinds import Evaluation
from starloom.step import Outcome, produce

NAME = "evaluation"


def keep_as_artifact(
    root: Path, request: dict[str, Any], result: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> Artifact:
    """Write ``root/evaluation/FINGERPRINT``: results.json, and samples.jsonl in the order of tasks and samples.

    The fingerprint covers what was asked, of which model, and what it answered: an endpoint's model can change behind
    its name. The same answers give the same bytes; an artifact that is there is left as it is.
    """
    identity = {
        "step": NAME,
        "config": request,
        "model": result["model"],
        "completions": fingerprint_of({"rows": [row["completion"] for row in rows]}),
    }

    def write(output: ArtifactWriter) -> Outcome:
        output.write_json(Evaluation.RESULTS, result)
        output.write_text("samples.jsonl", "".join(map(jsonlines.dump, rows)))
        passed = sum(bool(row["passed"]) for row in rows)
        return Outcome(len(rows), passed, details={"model": result["model"], "benchmark": result["benchmark"]})

    place = storage.normalize(str(root))
    return produce(place, NAME, Evaluation.kind, identity=identity, config=request, work=write)
