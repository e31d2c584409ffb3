"""Early cut-off: what reads only a part of its inputs is not made again while that part stays the same.

As in Mokhov, Mitchell and Peyton Jones, *Build systems a la carte* (2018): a step that was made again with the same
result makes nothing after it stale. Here the result is looked at through the eyes of the step that reads it
(`Step.reads`), so that a corpus whose card counts one dropped file more leaves the tokens and the model as they are.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from starloom.artifact import Artifact, Manifest, canonical_json, manifests
from starloom.errors import UserError


def alike(root: str, artifact: Artifact, prefixes: Sequence[str]) -> Iterator[str]:
    """The fingerprints of the step's other finished artifacts whose files with these prefixes are the same."""
    wanted = _part(artifact.manifest, prefixes)
    for folder in manifests(root, artifact.name):
        if folder == artifact.folder:
            continue
        try:
            other = Artifact.open(folder)
        except UserError:  # damaged, and asked for by nobody: it is as good as none
            continue
        if other.kind == artifact.kind and _part(other.manifest, prefixes) == wanted:
            yield other.fingerprint


def alternatives(
    root: str, inputs: Sequence[tuple[str, str, Artifact | None]], reads: Mapping[str, tuple[str, ...]]
) -> Iterator[list[str]]:
    """Other fingerprints for a step's inputs, in which it would read the same: all of them, one list each.

    `inputs` are (kind, fingerprint, artifact), without an artifact where that is yet to be made.
    """
    choices = [
        [fingerprint, *(alike(root, artifact, reads[kind]) if artifact is not None and kind in reads else ())]
        for kind, fingerprint, artifact in inputs
    ]
    yield from itertools.islice(map(list, itertools.product(*choices)), 1, None)


def _part(manifest: Manifest, prefixes: Sequence[str]) -> str:
    files = {name: entry.sha256 for name, entry in manifest.files.items() if name.startswith(tuple(prefixes))}
    return canonical_json({"files": files, "details": manifest.details})
