"""What steps tell Ray's metrics: how far one is, what it has written, and of those that are done what they left out.

Ray gathers them on every node and Prometheus asks it; `platform/dashboards` shows them. Where no Ray runs, nobody asks.
"""

from collections.abc import Mapping
from typing import Any, Final

from starloom.artifact import Artifact

PROGRESS: Final = {
    "starloom_step_shards": "Shards of the part that a step is at",
    "starloom_step_shards_done": "Of these, those that are done",
    "starloom_step_bytes_written": "Bytes that the step has written since it began, but for what it wrote alone",
}
DONE: Final = {
    "starloom_done_rows_in": "Rows that went into a finished step",
    "starloom_done_rows_out": "Rows that came out",
    "starloom_done_dropped": "Rows that it left out, by reason",
    "starloom_done_bytes": "Bytes of its artifact",
    "starloom_done_seconds": "Seconds that it took",
}
EVALUATION: Final = {
    "starloom_evaluation_programs": "Programs that an evaluation has judged, by verdict",
    "starloom_evaluation_programs_left": "Programs that it has yet to judge",
}
TAGS: Final = {**dict.fromkeys(PROGRESS, ("part",)), **dict.fromkeys(DONE, ("recipe", "step", "reason")),
               **dict.fromkeys(EVALUATION, ("verdict",))}  # fmt: skip
_gauges: dict[str, Any] = {}


def tell(name: str, value: float, **tags: str) -> None:
    """Set one of the gauges above; every tag that it has and that is not given is empty."""
    import ray

    if not ray.is_initialized():
        return
    if name not in _gauges:
        from ray.util.metrics import Gauge

        described = {**PROGRESS, **DONE, **EVALUATION}[name]
        _gauges[name] = Gauge(name, description=described, tag_keys=TAGS[name])
    _gauges[name].set(value, tags={key: tags.get(key, "") for key in TAGS[name]})


def progress(part: str, ready: int, shards: int, written: int) -> None:
    """How far a part of a step is: shards done and in all, bytes written."""
    tell("starloom_step_shards", shards, part=part)
    tell("starloom_step_shards_done", ready, part=part)
    tell("starloom_step_bytes_written", written, part=part)


def done(recipe: str, artifact: Artifact) -> None:
    """What a step has come to."""
    manifest = artifact.manifest
    of: Mapping[str, str] = {"recipe": recipe, "step": manifest.step}
    tell("starloom_done_rows_in", manifest.counts.rows_in, **of)
    tell("starloom_done_rows_out", manifest.counts.rows_out, **of)
    tell("starloom_done_bytes", manifest.bytes, **of)
    tell("starloom_done_seconds", manifest.seconds, **of)
    for reason, count in manifest.counts.dropped.items():
        tell("starloom_done_dropped", count, reason=reason, **of)
