"""A source: files that are named one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_jobs.sources.entries import Independent, Item, Limits, Listed, Refusal, Spill
from starloom import storage
from starloom.config import Config


class FilesSource(Config, Independent):
    """Files by their paths."""

    kind: Literal["acme-files"] = "acme-files"
    paths: tuple[str, ...]

    def places(self, state: object = None) -> list["OneFile"]:
        """Each file."""
        return [OneFile(path, Path(path).stat().st_size) for path in self.paths]

    def state(self) -> object:
        """Sizes and times."""
        return storage.file_state(self.paths)


@dataclass(frozen=True)
class OneFile:
    """What a task lists and reads."""

    path: str
    size: int
    scope: str = ""

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """Itself."""
        yield self

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """The file as one item."""
        with storage.open_steady(self.path) as file:
            content = file.read(limits.of(self.path) + 1)
            yield Item("acme/files", Path(self.path).name, content, source="acme-files")
