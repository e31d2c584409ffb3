"""Paths and URLs: a local folder and any fsspec URL behind the same few functions.

A file written here exists only when it is complete. Locally that is a temporary name, `fsync` and a rename; object
stores show an object only once its upload has ended. What another process wrote is seen at once: no listing is kept.
"""

import glob
import hashlib
import io
import logging
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec

from starloom.errors import UserError, disk_error, one_line
from starloom.patience import AT_ONCE, KNOWN_TO_BE_THERE, SteadyFile, tried

TEMPORARY_PREFIX = ".tmp-"
# file systems that a run can lie on: an object is there whole or not at all, and can be made only where there is none
WRITABLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "azure", "abfs": "azure", "abfss": "azure"}
AT_A_TIME_BYTES = 8 << 20  # what is larger is uploaded from a file, in parts
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
        extra = EXTRAS.get(location.split("://", 1)[0])
        more = f"; pip install 'starloom[{extra}]'" if extra and isinstance(error, ImportError) else ""
        raise UserError(f"{location}: cannot be opened: {one_line(error)}{more}") from None
    if is_remote(location):
        logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells every process where its keys were found
        logging.getLogger("aiobotocore").setLevel(logging.WARNING)
        filesystem.invalidate_cache()  # of listings, which other processes have changed since
    return filesystem, path


def asked(location: str, work: Callable[[Any, str], T], *, doing: str = "read") -> T:
    """What `work` finds out of a file system and a path in it, asked again when the storage stutters."""

    def once() -> T:
        filesystem, path = filesystem_of(location)
        return work(filesystem, path)

    return tried(location, once, doing=doing) if is_remote(location) else once()


def exists(location: str) -> bool:
    """Whether a file or folder is there."""
    if not is_remote(location):
        return os.path.lexists(location) and Path(location).exists()
    return asked(location, lambda filesystem, path: bool(filesystem.exists(path)))


def is_folder(location: str) -> bool:
    """Whether a folder is there."""
    return asked(location, lambda filesystem, path: bool(filesystem.isdir(path)))


def folders(location: str) -> list[str]:
    """The names of the folders directly inside a folder, sorted; empty when it does not exist."""

    def found(filesystem: Any, path: str) -> list[str]:
        try:
            entries = filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(posixpath.basename(e["name"].rstrip("/")) for e in entries if e["type"] == "directory")

    return asked(location, found)


def files_below(location: str) -> list[tuple[str, int]]:
    """Every file below a folder as (relative name, size in bytes), sorted; unfinished files are left out."""
    return sorted(sizes_below(location).items())


def sizes_below(location: str) -> dict[str, int]:
    """The same in no order."""
    if not is_remote(location):  # fsspec takes 10 µs a file, which are seconds for a large artifact
        sizes: dict[str, int] = {}
        _local_sizes(normalize(location), "", sizes)
        return sizes

    def found(filesystem: Any, path: str) -> dict[str, int]:
        prefix = path.rstrip("/") + "/"
        every = filesystem.find(path, detail=True)
        below = {full.removeprefix(prefix): int(info["size"]) for full, info in every.items() if full != path}
        return {name: size for name, size in below.items() if not posixpath.basename(name).startswith(".")}

    return asked(location, found)


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
    if not is_remote(location):
        return Path(location).read_bytes()
    return asked(location, lambda filesystem, path: bytes(filesystem.cat_file(path)))


def size_of(location: str) -> int:
    """Bytes of a file."""
    return asked(location, lambda filesystem, path: int(filesystem.size(path)))


def modified(location: str) -> float:
    """When a file was changed last, in seconds since 1970."""
    return asked(location, lambda filesystem, path: float(filesystem.modified(path).timestamp()))


def open_file(location: str, mode: str = "rb") -> IO[Any]:
    """Open for reading; a remote file is asked again, and again, where its storage stutters."""
    if not is_remote(location):
        return open(location, mode, encoding=None if "b" in mode else "utf-8")
    file = io.BufferedReader(SteadyFile(location, lambda: _opened(location), AT_ONCE), 1 << 20)
    return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")


def _opened(location: str) -> IO[bytes]:
    filesystem, path = filesystem_of(location)
    file: IO[bytes] = filesystem.open(path, "rb")
    return file


def open_steady(location: str, buffer_bytes: int = 1 << 20) -> io.BufferedReader:
    """Open a file of a source for reading, which was there when it was listed: the storage is asked again, and again.

    What it raises beyond that is a `StorageError`, which is no OSError: so whatever else a decoder raises on such a
    file is a fault of its bytes.

    Raises:
        StorageError: the file cannot be opened or read; reading raises it too.
    """

    def opener() -> IO[bytes]:
        return _opened(location) if is_remote(location) else open_file(location)

    return io.BufferedReader(SteadyFile(location, opener, KNOWN_TO_BE_THERE), buffer_bytes)


@contextmanager
def atomic_write(location: str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open for writing; the file appears at `location` only when the block ends without an error.

    Raises:
        RunError: the disk is full or closed, or the storage took nothing.
        UserError: there are no rights, or no such bucket.
    """
    encoding = None if "b" in mode else "utf-8"
    if is_remote(location):
        with tempfile.NamedTemporaryFile(mode, prefix="starloom-", encoding=encoding) as file:
            yield file
            file.flush()
            _upload(location, Path(file.name))
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


def _upload(location: str, file: Path) -> None:
    """An upload of its own, which is there whole when it ends, and is made again when it fails."""
    if file.stat().st_size <= AT_A_TIME_BYTES:
        content = file.read_bytes()
        _written(location, lambda filesystem, path: filesystem.pipe_file(path, content))
    else:
        _written(location, lambda filesystem, path: filesystem.put_file(str(file), path))


def _written(location: str, work: Callable[[Any, str], T]) -> T:
    try:
        return asked(location, work, doing="written")
    except FileNotFoundError as error:
        raise UserError(f"{location}: cannot be written: {one_line(error)}; is there such a bucket?") from None


def create(location: str, content: bytes) -> bool:
    """Write a small file where there is none; False where there is one, whoever was first by however little."""
    try:
        if not is_remote(location):
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            with open(location, "xb") as file:
                file.write(content)
        else:
            _written(location, lambda filesystem, path: filesystem.pipe_file(path, content, mode="create"))
    except FileExistsError:
        return False
    return True


def upload(local: Path, location: str) -> None:
    """Copy a local file, or what is in a folder, to a URL; each file is there whole or not at all."""
    for path in sorted(local.rglob("*")) if local.is_dir() else [local]:
        if path.is_file() and not path.name.startswith("."):
            _upload(join(location, path.relative_to(local).as_posix()) if local.is_dir() else location, path)


def download(location: str, folder: Path) -> None:
    """Copy what is in a remote folder into a local one; nothing where there is no such folder."""
    for name in sizes_below(location):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_file(join(location, name)) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, AT_A_TIME_BYTES)


def remove_file(location: str) -> None:
    """Remove a file; nothing happens when it is not there."""
    with suppress(FileNotFoundError):
        asked(location, lambda filesystem, path: filesystem.rm_file(path), doing="removed")


def remove_below(location: str) -> None:
    """Remove a folder with all that is in it, or a file; nothing happens when it is not there."""
    if not is_remote(location):
        if Path(location).is_dir():
            shutil.rmtree(location)
        else:
            Path(location).unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):
        asked(location, lambda filesystem, path: filesystem.rm(path, recursive=True), doing="removed")


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


def matching_files(pattern: str, *, setting: str, what: str = "file") -> list[str]:
    """The files or folders that a path, glob pattern or URL (``s3://...``, ``hf://...``) names, sorted.

    Raises:
        UserError: nothing is there; names the `setting`.
    """
    if is_remote(pattern):
        names = asked(pattern, _matching_remote)
    else:
        expanded = str(Path(pattern).expanduser())
        names = [expanded]
        if glob.has_magic(expanded) and not os.path.lexists(expanded):  # a path with brackets in it wins
            names = glob.glob(expanded, recursive=True)  # noqa: PTH207 (an absolute pattern is no Path.glob)
        names = [name for name in names if os.path.lexists(name)]
    if not names:
        raise UserError(f"{setting}: {pattern!r}: no such {what}; give a path, a glob pattern or a URL")
    return sorted(names)


def _matching_remote(filesystem: Any, path: str) -> list[str]:
    found = filesystem.glob(path) if any(c in path for c in "*?[") else [path] if filesystem.exists(path) else []
    return [filesystem.unstrip_protocol(name) for name in found]


def file_state(names: Sequence[str]) -> list[list[Any]]:
    """Name, size and time of change of files, local or remote (there by ETag, where it has one); JSON-able."""
    state: list[list[Any]] = []
    listed: dict[str, dict[str, Any]] = {}
    for name in names:
        if is_remote(name):
            info = _info(name, listed)
            changed = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("last_commit")
            state.append([name, info.get("size"), str(changed)])
        else:
            stat = Path(name).stat()
            state.append([printable(name), stat.st_size, stat.st_mtime_ns])
    return state


def _info(location: str, listed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a storage says of a file, from one listing of its folder: a question a file takes minutes for thousands."""
    parent = location.rsplit("/", 1)[0]
    if parent not in listed:

        def entries(filesystem: Any, path: str) -> dict[str, Any]:
            with suppress(FileNotFoundError, NotADirectoryError, NotImplementedError):  # HTTP lists nothing
                return {entry["name"]: entry for entry in filesystem.ls(path, detail=True)}
            return {}

        listed[parent] = asked(parent, entries)
    _, path = filesystem_of(location)
    found: dict[str, Any] = listed[parent].get(path) or asked(location, lambda filesystem, at: filesystem.info(at))
    return found


def version(location: str) -> tuple[int, int] | None:
    """What changes when a local file does: its time of change and its inode; None where there is none."""
    try:
        found = Path(location).stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def printable(name: str) -> str:
    """A name that can be stored: bytes that are not UTF-8, and halves of surrogate pairs, as a backslash and digits."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON may write it
        return name.encode("utf-8", "backslashreplace").decode("utf-8")
