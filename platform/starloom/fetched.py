"""Copies on this machine of what lies on object stores, for readers that need real files.

Memory maps, safetensors and tokenizers do. A copy is of one state of what was copied: what has changed since is fetched
anew. The oldest used are removed when there are too many.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from starloom import storage
from starloom.errors import UserError, disk_error

COPIES: Final = "copies"
MARK: Final = ".bytes"
LIMIT: Final = "STARLOOM_CACHE_GB"  # environment: GB of copies that are kept
DEFAULT_GB: Final = 200.0
IN_USE_SECONDS: Final = 3600.0  # a copy that was asked for lately stays


def local_copy(location: str) -> Path:
    """The location itself when it is local; else a copy in the cache folder, fetched once.

    Raises:
        UserError: there is nothing at the location.
        RunError: the cache's disk is full.
    """
    if not storage.is_remote(location):
        return Path(location)
    state = _state(location)
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    place = _copies_of(location) / digest
    target = place / posixpath.basename(location)
    if not target.exists():
        try:
            with _alone(place.parent):
                if not target.exists():  # one process of a node fetches for all
                    _fetch(location, place, single=len(state) == 1 and state[0][0] == "")
        except OSError as error:
            raise disk_error(error, str(place)) from error
        _trim(keep=place)
    with contextlib.suppress(OSError):
        os.utime(place / MARK)
    return target


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def forget_copy(location: str) -> None:
    """Remove what `local_copy` has fetched of a location to this machine."""
    if storage.is_remote(location):
        shutil.rmtree(_copies_of(location), ignore_errors=True)


def _copies_of(location: str) -> Path:
    return storage.cache_folder() / COPIES / hashlib.sha256(location.encode()).hexdigest()[:16]


def _state(location: str) -> list[list[Any]]:
    """Name, size and version of every file at a location; a file's own name is empty."""

    def found(filesystem: Any, path: str) -> list[list[Any]]:
        every = filesystem.find(path, detail=True)
        if not every and filesystem.exists(path):  # a web server, which lists nothing
            every = {path: filesystem.info(path)}
        versions = ((name.removeprefix(path).lstrip("/"), info) for name, info in sorted(every.items()))
        return [[name, info.get("size"), _version(info)] for name, info in versions]

    state = storage.asked(location, found)
    if not state:
        raise UserError(f"{location}: does not exist")
    return state


def _version(info: dict[str, Any]) -> str:
    known = (info.get(key) for key in ("ETag", "etag", "LastModified", "last_modified", "created", "mtime"))
    return str(next((value for value in known if value), ""))


def _fetch(location: str, place: Path, *, single: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        new = Path(scratch) / place.name
        target = new / posixpath.basename(location)
        target.mkdir(parents=True)
        if single:
            target.rmdir()
            with storage.open_file(location) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, storage.AT_A_TIME_BYTES)
        else:
            storage.download(location, target)
        (new / MARK).write_text(str(_bytes_in(new)))
        with contextlib.suppress(OSError):  # another process was first with the same
            new.rename(place)
    if not place.exists():
        raise OSError(f"{place}: the copy of {location} has gone at once")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _marks() -> Iterator[tuple[float, int, Path]]:
    """When each copy was used last, its bytes, its folder."""
    for mark in (storage.cache_folder() / COPIES).glob(f"*/*/{MARK}"):
        with contextlib.suppress(OSError, ValueError):
            yield mark.stat().st_mtime, int(mark.read_text()), mark.parent


def _trim(*, keep: Path) -> None:
    """Remove the copies that were not used for longest, until the others fit."""
    room = float(os.environ.get(LIMIT, DEFAULT_GB)) * 1e9
    marks = sorted(_marks())
    total = sum(size for _, size, _ in marks)
    for used, size, place in marks:
        if total <= room:
            return
        if place != keep and time.time() - used > IN_USE_SECONDS:
            shutil.rmtree(place, ignore_errors=True)
            total -= size
