"""From what a thing was made: artifacts and their inputs down to the sources, as manifests tell it."""

from collections.abc import Iterator
from typing import Any

from starloom import storage
from starloom.artifact import MANIFEST, Artifact, InputEntry, manifests, newest
from starloom.errors import NotFoundError
from starloom.kinds import Collected, Model


def lineage(root: str, step: str | None = None) -> list[str]:
    """A tree in lines: the newest artifact of a step (none: the newest model), and below it what it was made from.

    Raises:
        NotFoundError: there is none.
    """
    root = storage.normalize(root)
    if step is None:
        found = newest(root, Model.kind)
        if found is None:
            raise NotFoundError(
                f"{root}: holds no finished model; name a step: {', '.join(_steps(root)) or 'none is done'}"
            )
    else:
        done = manifests(root, step)
        if not done:
            raise NotFoundError(f"{step}: nothing finished in {root}; its steps: {', '.join(_steps(root)) or 'none'}")
        found = Artifact.open(done[-1])
    return list(_tree(found, seen=set()))


def _steps(root: str) -> list[str]:
    return [step for step in storage.folders(root) if not step.startswith(".") and manifests(root, step)]


def _tree(artifact: Artifact, seen: set[str], first: str = "", rest: str = "") -> Iterator[str]:
    again = artifact.fingerprint in seen
    seen.add(artifact.fingerprint)
    yield first + _head(artifact) + (" (see above)" if again else "")
    if again:
        return
    inputs = [_opened(artifact, entry) for entry in artifact.manifest.inputs]
    below: list[Artifact | InputEntry | str] = [*_sources(artifact), *inputs]
    for number, one in enumerate(below):
        last = number == len(below) - 1
        branch, trunk = rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        if isinstance(one, Artifact):
            yield from _tree(one, seen, branch, trunk)
        elif isinstance(one, str):
            yield branch + one
        else:
            yield f"{branch}{one.step} {one.fingerprint[:8]}: is not at {one.location} any more"


def _opened(artifact: Artifact, entry: InputEntry) -> Artifact | InputEntry:
    place = artifact.place_of(entry)
    return Artifact.open(place) if place is not None and storage.exists(storage.join(place, MANIFEST)) else entry


def _head(artifact: Artifact) -> str:
    manifest, story = artifact.manifest, artifact.manifest.story
    rows = f", {manifest.counts.rows_out:,} rows" if manifest.counts.rows_out else ""
    told = [
        story.finished,
        f"on {story.host}" if story.host else "",
        f"commit {story.commit[:12]}" if story.commit else "",
    ]
    told += [f"{name} = {value}" for name, value in sorted(story.labels.items())]
    return (
        f"{manifest.step} {manifest.fingerprint[:8]} ({manifest.kind}{rows}, {manifest.bytes / 1e6:,.1f} MB)"
        + "".join(f" · {one}" for one in told if one)
    )


def _sources(artifact: Artifact) -> Iterator[str]:
    """Where the step's rows, or the model that it began from, were taken from."""
    if artifact.kind == Collected.kind:
        for source in artifact.manifest.config.get("sources", ()):
            yield f"source {_named(source)}"
    initial = artifact.manifest.details.get("initial")
    if initial and not any(entry.kind == Model.kind for entry in artifact.manifest.inputs):
        yield f"model {initial}"


def _named(source: dict[str, Any]) -> str:
    place = source.get("path") or source.get("paths") or ""
    return " ".join(str(part) for part in (source.get("kind", ""), place, source.get("repo_name") or "") if part)
