"""What every source speaks in: units of work that read items, and refusals with their reason."""

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from starloom import storage
from starloom.errors import UserError

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

    def listing(self) -> Listing:
        """What there is to read. Raises `UserError` when the source does not exist."""
        ...

    def state(self) -> Any:
        """JSON-able: changes when the source's content does. Cheap: no content is read."""
        ...


def is_utf8(name: str) -> bool:
    """Whether a file name from the operating system is valid UTF-8 (Python marks other bytes as surrogates)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file name that can be stored: bytes that are not UTF-8 as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches one of the glob patterns."""
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def matching_files(pattern: str, *, what: str) -> list[str]:
    """The files or folders that a path, glob pattern or URL (``s3://...``, ``hf://...``) names, sorted.

    Raises:
        UserError: nothing is there.
    """
    if storage.is_remote(pattern):
        filesystem, path = storage.filesystem_of(pattern)
        found = filesystem.glob(path) if any(c in path for c in "*?[") else [path] if filesystem.exists(path) else []
        names = [filesystem.unstrip_protocol(name) for name in found]
    else:
        expanded = str(Path(pattern).expanduser())
        names = glob.glob(expanded, recursive=True) if glob.has_magic(expanded) else [expanded]  # noqa: PTH207 (an absolute pattern is no Path.glob)
        names = [name for name in names if os.path.lexists(name)]
    if not names:
        raise UserError(f"sources: path = {pattern!r}: no such {what}; give a path, a glob pattern or a URL")
    return sorted(names)


def file_state(names: Sequence[str]) -> list[list[Any]]:
    """Name, size and time of change of files, local or remote."""
    state: list[list[Any]] = []
    for name in names:
        if storage.is_remote(name):
            filesystem, path = storage.filesystem_of(name)
            info = filesystem.info(path)
            changed = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("last_commit")
            state.append([name, info.get("size"), str(changed)])
        else:
            stat = Path(name).stat()
            state.append([printable(name), stat.st_size, stat.st_mtime_ns])
    return state


def safe_member(name: str) -> str | None:
    """A path from inside an archive or a tree, made relative and plain; None when it leads outside."""
    plain = name.replace("\\", "/")
    parts = [part for part in PurePosixPath(plain).parts if part != "."]
    if plain.startswith("/") or ".." in parts or not parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return None
    return "/".join(parts)
