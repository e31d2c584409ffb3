"""What every source speaks in: places that list what they hold, units that read items, refusals with reasons."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from data_jobs.licenses.files import Kind, looks_like_a_licence
from starloom.artifact import ArtifactWriter

UNIT_BYTES = 4 << 20  # what the readers of many small files put into one unit


@dataclass(frozen=True)
class Limits:
    """How many bytes of one file are read; notebooks are judged once their outputs are cut."""

    file: int = 1 << 20
    notebook: int = 32 << 20

    def of(self, path: str) -> int:
        """The limit for a file of that name."""
        return self.notebook if path[-6:].lower() == ".ipynb" else self.file


@dataclass(frozen=True)
class Item:
    """One file, issue or commit as a source offers it; bytes are decoded, and refused, by `data_jobs.admission`.

    `scope` is the place of its repository, by which licences are inherited (empty: there is none).
    """

    repo_name: str
    path: str
    content: bytes | str
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    commit: str | None = None
    source: str = ""
    kind: str = "file"
    language: str | None = None  # where the source knows it
    encoding: str | None = None  # likewise
    scope: str = ""


@dataclass(frozen=True)
class Refusal:
    """A file that did not come in, and why."""

    repo_name: str
    path: str
    reason: str
    detail: str = ""


class Unit(Protocol):
    """A piece of a source that one task reads; picklable, and the same for the same source."""

    @property
    def size(self) -> int:
        """About how many bytes of text it holds: shards are cut by it."""
        ...

    @property
    def scope(self) -> str:
        """The place of the repository that it belongs to; empty where there is none, or several."""
        ...

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """Everything in it, in an order of its own that never changes.

        Raises:
            StorageError: the machine or the network did not give it; never a refusal.
        """
        ...


@dataclass(frozen=True)
class LicenseFile:
    """A file that tells licences, as a listing came across it."""

    scope: str
    repo_name: str
    path: str
    kind: Kind
    text: str


Listed = Unit | LicenseFile


@dataclass(frozen=True)
class Refused:
    """A file that a listing refuses, as a unit of its own: kept with its shard, not in a list of all."""

    refusal: Refusal
    size: int = 0
    scope: str = ""

    def read(self, limits: Limits) -> Iterator[Refusal]:
        """The refusal."""
        yield self.refusal


def refused(repo_name: str, path: str, reason: str, detail: str = "") -> Refused:
    """A refusal as a unit."""
    return Refused(Refusal(repo_name, path, reason, detail))


@dataclass(frozen=True)
class Spill:
    """Where the listing of a place puts what can only be read from one end to the other (archives, packed tables)."""

    output: ArtifactWriter
    folder: str

    def units(self, outcomes: Iterable[Item | Refusal], scope: str = "") -> Iterator["Spilled"]:
        """Everything once, in files of about `UNIT_BYTES`."""
        sized = grouped(outcomes, UNIT_BYTES, lambda one: len(one.content) if isinstance(one, Item) else 0)
        for number, group in enumerate(sized):
            name = f"{self.folder}/{number:06d}"
            with self.output.create(name) as file:
                pickle.dump(group, file, protocol=5)
            yield Spilled(self.output, name, sum(len(one.content) for one in group if isinstance(one, Item)), scope)


@dataclass(frozen=True)
class Spilled:
    """What `Spill.units` wrote."""

    output: ArtifactWriter
    name: str
    size: int
    scope: str

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """All of it; limits were kept when it was written."""
        with self.output.open_file(self.name) as file:
            yield from pickle.load(file)


class Place(Protocol):
    """A repository, an archive, a file of a table: what one task lists. Picklable."""

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """The units in their order, and the files that tell licences; found while they are asked for, once.

        Raises:
            StorageError: the machine or the network did not give it.
        """
        ...


class Source(Protocol):
    """A kind of source, which is its own config."""

    def places(self, state: Any = None) -> Sequence[Place]:
        """The places to list. `state` is what the method of that name told before: nothing need be seen twice.

        Raises:
            UserError: the source does not exist.
        """
        ...

    def gathered(self, spills: Sequence[Spill]) -> Iterator[Unit]:
        """Units over what all places have spilled, one spill each; they come after those of the places."""
        ...

    def state(self) -> Any:
        """JSON-able: changes when the source's content does, and with nothing else. A second look at it is cheap."""
        ...


class Independent:
    """A source whose places have nothing in common."""

    def gathered(self, spills: Sequence[Spill]) -> Iterator[Unit]:
        """Nothing."""
        return iter(())


T = TypeVar("T")


def grouped(items: Iterable[T], limit: int, size: Callable[[T], int]) -> Iterator[tuple[T, ...]]:
    """Neighbours in groups whose sizes add up to `limit` at most; what is larger alone is a group of its own."""
    group: list[T] = []
    total = 0
    for item in items:
        cost = size(item)
        if group and total + cost > limit:
            yield tuple(group)
            group, total = [], 0
        group.append(item)
        total += cost
    if group:
        yield tuple(group)


def license_file(scope: str, repo_name: str, path: str, kind: Kind, content: bytes) -> Iterator[LicenseFile]:
    """The file as evidence; none where only its content could tell, and does not."""
    if kind != "content" or looks_like_a_licence(content):
        yield LicenseFile(scope, repo_name, path, kind, content.decode("utf-8", "replace"))
