"""What every source speaks in: units of work that read items, and refusals with their reason."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

UNIT_BYTES = 4 << 20  # what the readers of many small files put into one unit


@dataclass(frozen=True)
class Item:
    """One file, issue or commit as a source offers it; bytes are decoded, and refused, by `data_jobs.admission`."""

    repo_name: str
    path: str
    content: bytes | str
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    commit: str | None = None
    source: str = ""
    kind: str = "file"
    language: str | None = None  # where the source knows it


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

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """Everything in it, in an order of its own that never changes."""
        ...


@dataclass(frozen=True)
class LicenseText:
    """A licence file that a listing came across."""

    repo_name: str
    path: str
    text: str


@dataclass
class Listing:
    """What a source holds: units to read, what is refused unread, and the licence files on the way.

    `later` are units that are found while they are asked for, once; refusals and licence files grow meanwhile. So a
    source of ten million files is never in memory.
    """

    units: list[Unit] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    licenses: list[LicenseText] = field(default_factory=list)
    later: Iterable[Unit] = ()

    def every_unit(self) -> Iterator[Unit]:
        """All units in their order; refusals and licence files are complete after the last one."""
        yield from self.units
        yield from self.later


@dataclass(frozen=True)
class Refused:
    """A file that a listing refuses, as a unit of its own: kept with its shard, not in a list of all."""

    refusal: Refusal
    size: int = 0

    def read(self, max_file_bytes: int) -> Iterator[Refusal]:
        """The refusal."""
        yield self.refusal


class Source(Protocol):
    """A kind of source, which is its own config."""

    def listing(self, state: Any = None) -> Listing:
        """What there is to read. `state` is what the method of that name told before: nothing need be seen twice.

        Raises:
            UserError: the source does not exist.
        """
        ...

    def state(self) -> Any:
        """JSON-able: changes when the source's content does. Cheap: no content is read."""
        ...


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
