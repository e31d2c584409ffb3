"""What the files of a folder hold, by digests that are kept from one walk to the next.

A walk comes in the order of the paths, and so does what the last one has left: the two are merged, file by file, in
memory of a few thousand of them. A file is read again only when its size, its times or its inode have changed; its
ctime is among them, which nobody sets back.
"""

import hashlib
import itertools
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from data_jobs.sources import walks
from data_jobs.sources.pickles import PickleFile, unpickled
from data_jobs.sources.walks import Found
from starloom.storage import cache_folder

READERS = 8
CHUNK = 1 << 20
DIGITS = 64  # of a sha256; what could not be read has words
RACY_NANOSECONDS = 2_000_000_000  # a file may change again within a clock's tick of its last change
PROGRESS_SECONDS = 10.0


class Seen(NamedTuple):
    """A file as a walk has found it, and the digest of what it held."""

    relative: str
    size: int
    changed: int
    version: tuple[int, int]
    content: str


def digested(root: str, files: Iterable[Found], key: str = "") -> Iterator[Found]:
    """The same files, each with the digest of its content; `key` tells walks of one root from another.

    A link's is that of where it points. What cannot be read says so, and is read again the next time.
    """
    name = hashlib.sha256(f"{root}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
    before, waiting, progress = _Before(_place(name)), iter(files), _Progress(root)
    with _After(_place(name)) as after, ThreadPoolExecutor(READERS) as readers:
        while batch := list(itertools.islice(waiting, walks.RUN_BATCH)):
            known = [before.of(found) for found in batch]
            read = readers.map(
                lambda found: _content(root, found),
                (found for found, content in zip(batch, known, strict=True) if content is None),
            )
            done = [Found(*found[:-1], content or next(read)) for found, content in zip(batch, known, strict=True)]
            progress.tell([found for found, content in zip(done, known, strict=True) if content is None])
            after.add(done)
            yield from done
        after.keep()


def _content(root: str, found: Found) -> str:
    path = os.path.join(root, found.relative)  # noqa: PTH118 - names may not be UTF-8
    if found.mode is None:
        return "closed"
    digest = hashlib.sha256()
    try:
        if stat.S_ISLNK(found.mode):
            digest.update(os.fsencode(os.readlink(path)))  # noqa: PTH115
        elif stat.S_ISREG(found.mode):
            with open(path, "rb", buffering=0) as file:
                while chunk := file.read(min(CHUNK, found.size + 1)):  # no more memory than the file asks for
                    digest.update(chunk)
        else:
            return "special"
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest.hexdigest()


def _place(name: str) -> Path:
    return cache_folder() / "seen" / name


class _Before:
    """What the last walk has left, read once from its beginning to its end."""

    def __init__(self, place: Path) -> None:
        self._entries = _entries(place)
        self._ahead: Seen | None = next(self._entries, None)

    def of(self, found: Found) -> str | None:
        """The digest of an unchanged file."""
        while self._ahead is not None and self._ahead.relative < found.relative:
            self._ahead = next(self._entries, None)
        one = self._ahead
        if one is None or found.mode is None or found.version == (0, 0):
            return None
        same = (one.relative, one.size, one.changed, one.version) == found.named()
        return one.content if same else None


def _entries(place: Path) -> Iterator[Seen]:
    """The entries of a table; a damaged one ends early, and costs reading what is behind."""
    try:
        for batch in unpickled(place):
            yield from map(Seen._make, batch)
    except Exception:  # noqa: BLE001 - what a damaged pickle may raise has no end; that there is none is ordinary
        return


class _After:
    """The table for the next walk; a disk that does not take it costs reading the files again and nothing else."""

    def __init__(self, place: Path) -> None:
        self._place, self._began = place, time.time_ns()
        self._packed: PickleFile | None = None
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            number, self._path = tempfile.mkstemp(dir=place.parent, prefix=".")
            os.close(number)
            self._packed = PickleFile(self._path)

    def __enter__(self) -> "_After":
        return self

    def __exit__(self, *_: object) -> None:
        if self._packed is not None:
            with suppress(OSError):
                self._packed.close()
            with suppress(OSError):
                Path(self._path).unlink(missing_ok=True)

    def add(self, batch: list[Found]) -> None:
        steady = (found for found in batch if self._began - max(found.changed, found.version[0]) > RACY_NANOSECONDS)
        self._write([(*found.named(), found.content) for found in steady if len(found.content) == DIGITS])

    def _write(self, entries: list[tuple[Any, ...]]) -> None:
        if self._packed is not None and entries:
            try:
                self._packed.add(entries)
            except OSError:
                self.__exit__()
                self._packed = None

    def keep(self) -> None:
        """Put it in the place of the last one."""
        if self._packed is not None:
            with suppress(OSError):
                self._packed.close()
                Path(self._path).replace(self._place)


class _Progress:
    """Says what is read where that takes long: the first look at a large folder is as long as reading it."""

    def __init__(self, root: str) -> None:
        self._root, self._files, self._bytes, self._said = root, 0, 0, time.monotonic()

    def tell(self, read: list[Found]) -> None:
        self._files += len(read)
        self._bytes += sum(found.size for found in read)
        if time.monotonic() - self._said > PROGRESS_SECONDS:
            self._said = time.monotonic()
            words = (
                f"{self._root}: {self._files:,} files, {self._bytes / 1e6:,.0f} MB are new or changed, and were read"
            )
            print(words, file=sys.stderr, flush=True)
