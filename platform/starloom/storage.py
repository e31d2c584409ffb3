"""Paths and URLs: a local folder and any fsspec URL behind the same few functions.

A file written here exists only when it is complete. Locally that is a temporary name, `fsync` and a rename; object
stores show an object only once its upload has ended.
"""

import glob
import hashlib
import io
import os
import posixpath
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec

from starloom.errors import StarloomError, StorageError, UserError, disk_error, one_line

TEMPORARY_PREFIX = ".tmp-"
# file systems of fsspec that a run can lie on
WRITABLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hdfs", "webhdfs", "memory")
RETRY_SECONDS = (0.2, 1.0, 4.0)  # pauses before a read is tried again
T = TypeVar("T")


def is_remote(location: str) -> bool:
    """Whether this is a URL of another file system (``s3://...``) rather than a local path."""
    return "://" in location and not location.startswith(("file://", "local://"))


def normalize(location: str) -> str:
    """A local path made absolute and without ``file://``; a URL without its trailing slash."""
    if is_remote(location):
        return location.rstrip("/")
    plain = location.split("://", 1)[1] if "://" in location else location
    return str(Path(plain).expanduser().absolute())


def usable_root(location: str) -> str:
    """A root, normalized, that can hold a run.

    Raises:
        UserError: it lies below a file, or where nothing can be written.
    """
    root = normalize(location)
    if is_remote(root):
        protocol = root.split("://", 1)[0]
        if protocol not in WRITABLE:
            known = ", ".join(f"{one}://" for one in WRITABLE)
            raise UserError(f"root = {location!r}: {protocol} cannot hold a run; give a folder, or one of {known}")
        return root
    try:
        there = next(path for path in (Path(root), *Path(root).parents) if path.exists() or path.is_symlink())
    except OSError as error:  # a folder above may not be entered
        raise UserError(f"root = {location!r}: {one_line(error)}; give another root") from None
    if not there.is_dir():
        raise UserError(f"root = {location!r}: {there} is no folder; give another root")
    return root


def join(location: str, *parts: str) -> str:
    """Append path components to a path or URL."""
    return posixpath.join(location, *parts) if parts else location


def filesystem_of(location: str) -> tuple[Any, str]:
    """The fsspec file system of a location and the location's path in it.

    Raises:
        UserError: no file system knows such a location.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise UserError(f"{location}: cannot be opened: {one_line(error)}") from None
    return filesystem, path


def exists(location: str) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(location):
        return os.path.lexists(location) and Path(location).exists()
    filesystem, path = filesystem_of(location)
    return bool(filesystem.exists(path))


def is_folder(location: str) -> bool:
    """Whether a folder is there."""
    filesystem, path = filesystem_of(location)
    return bool(filesystem.isdir(path))


def folders(location: str) -> list[str]:
    """The names of the folders directly inside a folder, sorted; empty when it does not exist."""
    filesystem, path = filesystem_of(location)
    if not filesystem.isdir(path):
        return []
    entries = filesystem.ls(path, detail=True)
    return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if e["type"] == "directory")


def files_below(location: str) -> list[tuple[str, int]]:
    """Every file below a folder as (relative name, size in bytes), sorted; unfinished files are left out."""
    return sorted(sizes_below(location).items())


def sizes_below(location: str) -> dict[str, int]:
    """The same in no order."""
    filesystem, path = filesystem_of(location)
    if not is_remote(location):  # fsspec takes 10 µs a file, which are seconds for a large artifact
        sizes: dict[str, int] = {}
        _local_sizes(path, "", sizes)
        return sizes
    if not filesystem.isdir(path):
        return {}
    prefix = path.rstrip("/") + "/"
    found = ((full.removeprefix(prefix), info) for full, info in filesystem.find(path, detail=True).items())
    return {name: int(info["size"]) for name, info in found if not posixpath.basename(name).startswith(".")}


def _local_sizes(folder: str, prefix: str, sizes: dict[str, int]) -> None:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _local_sizes(entry.path, f"{prefix}{entry.name}/", sizes)
            elif not entry.name.startswith("."):
                with suppress(FileNotFoundError):  # it has gone since, or is a link to nothing
                    sizes[prefix + entry.name] = entry.stat().st_size


def read_bytes(location: str) -> bytes:
    """A whole file."""
    with open_file(location, "rb") as file:
        return bytes(file.read())


def size_of(location: str) -> int:
    """Bytes of a file."""
    filesystem, path = filesystem_of(location)
    return int(filesystem.size(path))


def open_file(location: str, mode: str = "rb") -> IO[Any]:
    """Open for reading."""
    if not is_remote(location):
        return open(location, mode, encoding=None if "b" in mode else "utf-8")
    filesystem, path = filesystem_of(location)
    file: IO[Any] = filesystem.open(path, mode, **({} if "b" in mode else {"encoding": "utf-8"}))
    return file


class _SteadyFile(io.RawIOBase):
    """Every open, seek and read is tried again when it fails, from the place where it stood."""

    def __init__(self, location: str) -> None:
        self._location, self._at = location, 0
        self._file: IO[bytes] | None = None
        self.size: int = self._tried(self._measured)

    def _measured(self) -> int:
        file = self._open()
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        return end

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = open_file(self._location)
            self._file.seek(self._at)
        return self._file

    def _tried(self, work: Callable[[], T]) -> T:
        for pause in (*RETRY_SECONDS, None):
            try:
                return work()
            except Exception as error:
                if isinstance(error, StarloomError):
                    raise
                self._forget()
                if pause is None:
                    tries = len(RETRY_SECONDS) + 1
                    raise StorageError(
                        f"{self._location}: cannot be read, {tries} tries: {type(error).__name__}: {one_line(error)}"
                    ) from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _forget(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):
                file.close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = self._tried(lambda: self._read(len(buffer)))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _read(self, length: int) -> bytes:
        file = self._open()
        if file.tell() != self._at:
            file.seek(self._at)
        found = file.read(min(length, max(0, self.size - self._at)))
        if not found and length and self._at < self.size:
            raise EOFError(f"ends after {self._at} of {self.size} bytes")
        return found

    def close(self) -> None:
        self._forget()
        super().close()


def open_steady(location: str, buffer_bytes: int = 1 << 20) -> io.BufferedReader:
    """Open a file of a source for reading: a storage that stutters is asked again, and again.

    What it raises beyond that is a `StorageError`, which is no OSError: so whatever else a decoder raises on such a
    file is a fault of its bytes.

    Raises:
        StorageError: the file cannot be opened or read; reading raises it too.
    """
    return io.BufferedReader(_SteadyFile(location), buffer_bytes)


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


def remove_file(location: str) -> None:
    """Remove a file; nothing happens when it is not there."""
    filesystem, path = filesystem_of(location)
    with suppress(FileNotFoundError):
        filesystem.rm_file(path)


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


def cache_folder() -> Path:
    """Where copies and notes are kept that can be made again: ``STARLOOM_CACHE`` or ``~/.cache/starloom``."""
    return Path(os.environ.get("STARLOOM_CACHE", "~/.cache/starloom")).expanduser()


def local_copy(location: str) -> Path:
    """The location itself when it is local; else a copy in the cache folder, fetched once.

    For readers that need real files: memory maps, safetensors, tokenizers. Since artifacts never change, a fetched copy
    stays right.

    Raises:
        UserError: there is nothing at the location.
    """
    if not is_remote(location):
        return Path(location)
    target = _copy_of(location)
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


def _copy_of(location: str) -> Path:
    return cache_folder() / hashlib.sha256(location.encode()).hexdigest()[:16] / posixpath.basename(location)


def matching_files(pattern: str, *, setting: str, what: str = "file") -> list[str]:
    """The files or folders that a path, glob pattern or URL (``s3://...``, ``hf://...``) names, sorted.

    Raises:
        UserError: nothing is there; names the `setting`.
    """
    if is_remote(pattern):
        filesystem, path = filesystem_of(pattern)
        found = filesystem.glob(path) if any(c in path for c in "*?[") else [path] if filesystem.exists(path) else []
        names = [filesystem.unstrip_protocol(name) for name in found]
    else:
        expanded = str(Path(pattern).expanduser())
        names = [expanded]
        if glob.has_magic(expanded) and not os.path.lexists(expanded):  # a path with brackets in it wins
            names = glob.glob(expanded, recursive=True)  # noqa: PTH207 (an absolute pattern is no Path.glob)
        names = [name for name in names if os.path.lexists(name)]
    if not names:
        raise UserError(f"{setting}: {pattern!r}: no such {what}; give a path, a glob pattern or a URL")
    return sorted(names)


def file_state(names: Sequence[str]) -> list[list[Any]]:
    """Name, size and time of change of files, local or remote; JSON-able."""
    state: list[list[Any]] = []
    for name in names:
        if is_remote(name):
            filesystem, path = filesystem_of(name)
            info = filesystem.info(path)
            changed = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("last_commit")
            state.append([name, info.get("size"), str(changed)])
        else:
            stat = Path(name).stat()
            state.append([printable(name), stat.st_size, stat.st_mtime_ns])
    return state


def version(location: str) -> tuple[int, int] | None:
    """What changes when a local file does: its time of change and its inode; None where there is none."""
    try:
        found = Path(location).stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def forget_copy(location: str) -> None:
    """Remove what `local_copy` has fetched of a location to this machine."""
    if is_remote(location):
        remove_below(str(_copy_of(location).parent))


def printable(name: str) -> str:
    """A name that can be stored: bytes that are not UTF-8, and halves of surrogate pairs, as a backslash and digits."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON may write it
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
