"""Which checkpoints of a folder are complete, by their names alone. Imports no torch: the driver asks too."""

from pathlib import Path

MANIFEST = "manifest.json"


def complete(folder: Path) -> dict[int, Path]:
    """The manifests of complete checkpoints ``step-N`` by step; an unfinished one has none."""
    return {int(path.parent.name.removeprefix("step-")): path for path in folder.glob(f"step-*/{MANIFEST}")}
