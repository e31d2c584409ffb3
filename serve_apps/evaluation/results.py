"""A finished evaluation as an artifact: its score, and every sample with its verdict, under a fingerprint."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starloom import storage
from starloom.artifact import Artifact, ArtifactWriter, Counts, Manifest, fingerprint_of
from starloom.step import package_versions

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
    fingerprint = fingerprint_of(identity)
    folder = storage.join(storage.normalize(str(root)), NAME, fingerprint)
    if storage.exists(storage.join(folder, "manifest.json")):
        return Artifact.open(folder)
    writer = ArtifactWriter(folder)
    writer.write_json("results.json", result)
    writer.write_text("samples.jsonl", "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    files = writer.inventory()
    passed = sum(bool(row["passed"]) for row in rows)
    manifest = Manifest(
        step=NAME,
        kind="evaluation",
        fingerprint=fingerprint,
        provenance=identity,
        config=request,
        inputs=(),
        counts=Counts(rows_in=len(rows), rows_out=passed),
        details={"model": result["model"], "benchmark": result["benchmark"]},
        bytes=sum(entry.bytes for entry in files.values()),
        seconds=0.0,
        packages=package_versions(),
        files=files,
    )
    return writer.finish(manifest)
