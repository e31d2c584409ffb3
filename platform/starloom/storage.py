"""Paths and URLs: a local folder and any fsspec URL behind the same few functions.

A file written here exists only when it is complete. Locally that is a temporary name, `fsync` and a rename; object
stores show an object only once its upload has ended.
"""

import errno
import hashlib
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec

from starloom.errors import RunError, UserError

TEMPORARY_PREFIX = ".tmp-"


def is_remote(location: str) -> bool:
    """Whether this is a URL of another file system (``s3://...``) rather than a local path."""
    return "://" in location and not location.startswith(("file://", "local://"))


def normalize(location: str) -> str:
    """A local path made absolute and without ``file://``; a URL without its trailing slash."""
    if is_remote(location):
        return location.rstrip("/")
    plain = location.split("://", 1)[1] if "://" in location else location
    return str(Path(plain).expanduser().absolute())


def join(location: str, *parts: str) -> str:
    """Append path components to a path or URL."""
    return posixpath.join(location, *parts) if parts else location


def filesystem_of(location: str) -> tuple[Any, str]:
    """The fsspec file system of a location and the location's path in it."""
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise UserError(f"{location}: cannot be opened: {' '.join(str(error).split())}") from None
    return filesystem, path


def exists(location: str) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(location):
        return os.path.lexists(location) and Path(location).exists()
    filesystem, path = filesystem_of(location)
    return bool(filesystem.exists(path))


def folders(location: str) -> list[str]:
    """The names of the folders directly inside a folder, sorted; empty when it does not exist."""
    filesystem, path = filesystem_of(location)
    if not filesystem.isdir(path):
        return []
    entries = filesystem.ls(path, detail=True)
    return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if e["type"] == "directory")


def files_below(location: str) -> list[tuple[str, int]]:
    """Every file below a folder as (relative name, size in bytes), sorted; unfinished files are left out."""
    filesystem, path = filesystem_of(location)
    if not filesystem.isdir(path):
        return []
    found = filesystem.find(path, detail=True)
    prefix = path.rstrip("/") + "/"
    names = ((full.removeprefix(prefix), int(info["size"])) for full, info in found.items())
    return sorted(entry for entry in names if not posixpath.basename(entry[0]).startswith("."))


def read_bytes(location: str) -> bytes:
    """A whole file."""
    with open_file(location, "rb") as file:
        return bytes(file.read())


def open_file(location: str, mode: str = "rb") -> IO[Any]:
    """Open for reading."""
    if not is_remote(location):
        return open(location, mode, encoding=None if "b" in mode else "utf-8")
    filesystem, path = filesystem_of(location)
    return filesystem.open(path, mode, **({} if "b" in mode else {"encoding": "utf-8"}))


@contextmanager
def atomic_write(location: str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open for writing; the file appears at `location` only when the block ends without an error."""
    encoding = None if "b" in mode else "utf-8"
    if is_remote(location):
        filesystem, path = filesystem_of(location)
        with (
            filesystem.transaction,
            filesystem.open(path, mode, **({} if "b" in mode else {"encoding": encoding})) as file,
        ):
            yield file
        return
    target = Path(location)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise disk_error(error, location) from error
    finally:
        temporary.unlink(missing_ok=True)


def disk_error(error: OSError, location: str) -> Exception:
    """A full disk or a refused write as a one-line `RunError`; any other error as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"{location}: the disk is full; free some space and run again, what is finished stays")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return RunError(f"{location}: not writable ({error.strerror}); choose another root or mend its permissions")
    return error


def remove_below(location: str) -> None:
    """Remove a folder with all that is in it; nothing happens when it is not there."""
    if not is_remote(location):
        if Path(location).is_dir():
            shutil.rmtree(location)
        return
    filesystem, path = filesystem_of(location)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def checksum(location: str) -> str:
    """sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with open_file(location, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def local_copy(location: str) -> Path:
    """The location itself when it is local; else a copy in the cache folder, fetched once.

    For readers that need real files: memory maps, safetensors, tokenizers. The cache is ``STARLOOM_CACHE`` or
    ``~/.cache/starloom``; since artifacts never change, a fetched copy stays right.
    """
    if not is_remote(location):
        return Path(location)
    cache = Path(os.environ.get("STARLOOM_CACHE", "~/.cache/starloom")).expanduser()
    target = cache / hashlib.sha256(location.encode()).hexdigest()[:16] / posixpath.basename(location)
    if not target.exists():
        filesystem, path = filesystem_of(location)
        if not filesystem.exists(path):
            raise UserError(f"{location}: does not exist")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fetched = Path(scratch) / target.name
            filesystem.get(path, str(fetched), recursive=filesystem.isdir(path))
            fetched.rename(target)
    return target
