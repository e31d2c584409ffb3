"""What a walk through a folder has seen, in bounded memory, and kept for the step that reads the files.

A fingerprint needs the names, sizes and times of all files, and the step that follows needs the same list: the walk is
written down below the cache folder under its own digest, and read from there on the same machine.
"""

import gzip
import hashlib
import heapq
import itertools
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

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


def remembered(seen: Iterable[Found]) -> str:
    """The digest over names, sizes and times, once all is seen; what was seen can be `recalled` by it."""
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as spool:
        with gzip.open(spool, "wb", compresslevel=1) as packed:
            waiting = iter(seen)
            while batch := list(itertools.islice(waiting, RUN_BATCH)):
                for found in batch:
                    if found.mode is not None:
                        entry = f"{found.relative}\0{found.size}\0{found.changed}\n"
                        digest.update(entry.encode("utf-8", "surrogateescape"))
                pickle.dump([tuple(found) for found in batch], packed)
        _keep(spool, digest.hexdigest())
    return digest.hexdigest()


def recalled(digest: str) -> Iterator[Found] | None:
    """What was seen under a digest; None where this machine does not know it, or no longer."""
    place = _place(digest)
    return (Found(*one) for one in _batches(gzip.open(place, "rb"))) if place.is_file() else None


def _place(digest: str) -> Path:
    return cache_folder() / "walks" / digest


def _keep(spool: IO[bytes], digest: str) -> None:
    place = _place(digest)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        spool.seek(0)
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as file:
            while block := spool.read(1 << 20):
                file.write(block)
        Path(file.name).replace(place)
        others = sorted(place.parent.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in others[KEPT_WALKS:]:
            old.unlink(missing_ok=True)
    except OSError:  # a cache that cannot be written costs a second walk and nothing else
        return


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


def _batches(file: IO[bytes] | gzip.GzipFile) -> Iterator[Any]:
    with file:
        while True:
            try:
                yield from pickle.load(file)
            except EOFError:
                return
