"""What a walk through a folder has seen, in bounded memory, and kept for the step that reads the files.

A fingerprint needs the names, sizes and digests of all files, and the step that follows needs the same list: the walk
is written down below the cache folder under its own digest, and read from there on the same machine.
"""

import hashlib
import heapq
import itertools
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from data_jobs.sources.pickles import PickleFile, unpickled
from starloom.errors import RunError
from starloom.storage import cache_folder

RUN_NAMES = 1 << 17  # names that are sorted in memory
RUN_BATCH = 4096
KEPT_WALKS = 8  # the newest; each is read once or twice


class Found(NamedTuple):
    """What is no folder to enter, by its path below the root; or a folder that is closed, with a slash behind."""

    relative: str
    mode: int | None  # of the entry itself, links are not followed; None: it cannot be asked
    size: int
    changed: int  # nanoseconds
    trouble: str = ""
    version: tuple[int, int] = (0, 0)  # its ctime and its inode
    content: str = ""  # the sha256 of what it holds, where that was asked for

    def named(self) -> tuple[str, int, int, tuple[int, int]]:
        """What changes when the file does."""
        return self.relative, self.size, self.changed, self.version


def remembered(seen: Iterable[Found]) -> str:
    """The digest over names, sizes and contents, once all is seen; what was seen can be `recalled` by it.

    Where the contents were not asked for, it is over the times of change in their place.
    """
    digest = hashlib.sha256()
    waiting = iter(seen)
    with _Spool() as spool:
        while batch := list(itertools.islice(waiting, RUN_BATCH)):
            digest.update(b"".join(map(_entry, batch)))
            spool.add([tuple(found) for found in batch])
        spool.keep(digest.hexdigest())
    return digest.hexdigest()


def recalled(digest: str) -> Iterator[Found] | None:
    """What was seen under a digest; None where this machine does not know it, or no longer.

    Raises:
        RunError: once all is read, where it is not what was written; it is known no longer then.
    """
    place = _place(digest)
    return _held_against(digest, place) if place.is_file() else None


def kept(digest: str) -> bool:
    """Whether this machine can recall it; it counts as used."""
    try:
        os.utime(_place(digest))
    except OSError:
        return False
    return True


def _held_against(digest: str, place: Path) -> Iterator[Found]:
    read = hashlib.sha256()
    damage: Exception | None = None
    try:
        for found in map(Found._make, itertools.chain.from_iterable(unpickled(place))):
            read.update(_entry(found))
            yield found
    except Exception as error:  # noqa: BLE001 - what a damaged pickle may raise has no end
        damage = error
    if damage is not None or read.hexdigest() != digest:  # a file that was cut off just ends early
        place.unlink(missing_ok=True)
        raise RunError(f"{place}: was damaged, and is removed; run again") from damage


def _entry(found: Found) -> bytes:
    if found.mode is None:
        return b""
    return f"{found.relative}\0{found.size}\0{found.content or found.changed}\n".encode("utf-8", "surrogateescape")


def _place(digest: str) -> Path:
    return cache_folder() / "walks" / digest


class _Spool:
    """A walk while it is written down; a disk that does not take it costs a second walk and nothing else."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._packed: PickleFile | None = None
        with suppress(OSError):
            folder = _place("")
            folder.mkdir(parents=True, exist_ok=True)
            number, path = tempfile.mkstemp(dir=folder, prefix=".")
            os.close(number)
            self._path = Path(path)
            self._packed = PickleFile(path)

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def add(self, batch: list[tuple[Any, ...]]) -> None:
        if self._packed is not None:
            try:
                self._packed.add(batch)
            except OSError:
                self._drop()

    def keep(self, digest: str) -> None:
        """Keep it under its digest; of all that are kept the oldest go."""
        if self._packed is None or self._path is None:
            return
        with suppress(OSError):
            self._packed.close()
            self._path.replace(_place(digest))
            others = sorted(_place("").glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for old in others[KEPT_WALKS:]:
                old.unlink(missing_ok=True)

    def _drop(self) -> None:
        packed, path, self._packed, self._path = self._packed, self._path, None, None
        with suppress(OSError):  # closing writes what is left
            if packed is not None:
                packed.close()
        with suppress(OSError):
            if path is not None:
                path.unlink(missing_ok=True)


T = TypeVar("T", bound=str | tuple[Any, ...])


def sorted_names(names: Iterable[T]) -> Iterator[T]:
    """`sorted`, in the memory of one run: more than that goes through sorted runs on disk (external merge sort)."""
    waiting = iter(names)
    runs: list[IO[bytes]] = []
    while True:
        run = sorted(itertools.islice(waiting, RUN_NAMES))
        if len(run) < RUN_NAMES and not runs:
            return iter(run)
        if not run:
            return heapq.merge(*(_batches(file) for file in runs))
        file = tempfile.TemporaryFile()  # noqa: SIM115 - read, and closed, by the merge
        for start in range(0, len(run), RUN_BATCH):
            pickle.dump(run[start : start + RUN_BATCH], file)
        file.seek(0)
        runs.append(file)


def _batches(file: IO[bytes]) -> Iterator[Any]:
    with file:
        while True:
            try:
                yield from pickle.load(file)
            except EOFError:
                return
