"""Source files in folders: a checkout, a folder of checkouts, or the standard library of the running Python."""

import hashlib
import heapq
import itertools
import os
import pickle
import stat
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeVar

from data_jobs.licenses import MAX_LICENSE_BYTES, is_license_file
from data_jobs.sources.entries import Item, LicenseText, Listing, Refusal, Refused
from data_jobs.sources.names import excluded, is_utf8
from starloom.config import Config
from starloom.errors import UserError
from starloom.storage import printable

# never source of the repository itself: version control, caches, installed packages
SKIPPED_FOLDERS = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        "node_modules",
        ".venv",
        ".tox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    }
)
RUN_NAMES = 1 << 17  # names that are sorted in memory
RUN_BATCH = 4096


class FolderSource(Config):
    """A folder. With ``repositories = "children"`` each entry directly below it is a repository of its own."""

    kind: Literal["folder"] = "folder"
    path: str
    repositories: Literal["whole", "children"] = "whole"
    repo_name: str | None = None
    licenses: tuple[str, ...] = ()  # of every file; empty: found in licence files and headers
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def listing(self) -> Listing:
        """Every file below the folder."""
        return list_folder(self)

    def state(self) -> Any:
        """A hash over name, size and time of change of every file."""
        digest = hashlib.sha256()
        for found in _files(self, str(_root(self))):
            if found.status is not None:
                entry = f"{found.relative}\0{found.status.st_size}\0{found.status.st_mtime_ns}\n"
                digest.update(entry.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class StandardLibrarySource(Config):
    """The standard library of the Python that runs the job; each top-level package or module is a repository."""

    kind: Literal["python-stdlib"] = "python-stdlib"
    exclude: tuple[str, ...] = ()

    def listing(self) -> Listing:
        """Every file of the library."""
        return list_folder(standard_library(self))

    def state(self) -> Any:
        """A hash over name, size and time of change of every file."""
        return standard_library(self).state()


@dataclass(frozen=True)
class FolderFile:
    """One file on disk."""

    repo_name: str
    path: str
    location: str
    size: int  # bytes, when it was listed
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    source: str = "folder"

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """The file, or why it cannot be read."""
        try:
            with open(self.location, "rb") as file:
                content = file.read(max_file_bytes + 1)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            yield Refusal(self.repo_name, self.path, "unreadable", error.strerror or type(error).__name__)
            return
        if len(content) > max_file_bytes:
            yield Refusal(self.repo_name, self.path, "too_large", f"{size} bytes, limit {max_file_bytes}")
        else:
            yield Item(self.repo_name, self.path, content, self.licenses, self.stars, None, self.source)


def standard_library(source: StandardLibrarySource) -> FolderSource:
    """The folder behind a `StandardLibrarySource`."""
    return FolderSource(
        path=sysconfig.get_path("stdlib"),
        repositories="children",
        repo_name="cpython",
        licenses=("Python-2.0",),
        exclude=("site-packages/*", "dist-packages/*", "lib-dynload/*", "config-*", "*.so", *source.exclude),
    )


def list_folder(source: FolderSource) -> Listing:
    """Every file below the folder, by (repo_name, path). Links are not followed (a loop of links is one refusal).

    The files are found while they are asked for: the names of one folder at a time are in memory, and of a large folder
    no more than a run of them.

    Raises:
        UserError: the folder does not exist or is no folder.
    """
    root = _root(source)
    listing = Listing()
    listing.later = _units(source, str(root), listing)
    return listing


def _units(source: FolderSource, root: str, listing: Listing) -> Iterator[FolderFile | Refused]:
    base_name = source.repo_name or Path(root).resolve().name
    if source.repositories == "whole":
        yield from (_unit(source, base_name, found.relative, found, listing) for found in _files(source, root))
        return
    prefix = f"{source.repo_name}/" if source.repo_name else ""
    # a file and a folder directly below may name the same repository: their files are merged by path
    for repo_name, tops in itertools.groupby(
        sorted_names((_top_name(top), top) for top in _names_in(root, root)), key=lambda pair: pair[0]
    ):
        streams = [_below_top(source, root, top) for _, top in tops]
        for path, found in heapq.merge(*streams, key=lambda pair: pair[0]):
            yield _unit(source, prefix + repo_name, path, found, listing)


def _top_name(top: str) -> str:
    return printable(top[:-1] if top.endswith("/") else PurePosixPath(top).stem)


def _below_top(source: FolderSource, root: str, top: str) -> Iterator[tuple[str, "Found"]]:
    """Files of an entry directly below the root: of a folder by their path in it, of a file by its name."""
    for found in _files(source, root, top):
        yield (found.relative.partition("/")[2] if top.endswith("/") else found.relative), found


def _unit(
    source: FolderSource, repo_name: str, relative: str, found: "Found", listing: Listing
) -> FolderFile | Refused:
    path = printable(relative)
    if found.status is None:
        return Refused(Refusal(repo_name, path, "unreadable", found.trouble))
    if not is_utf8(found.relative):
        return Refused(Refusal(repo_name, path, "path_not_utf8"))
    if stat.S_ISLNK(found.status.st_mode):
        return Refused(Refusal(repo_name, path, "symlink"))
    if not stat.S_ISREG(found.status.st_mode):
        return Refused(Refusal(repo_name, path, "not_a_regular_file"))
    size = found.status.st_size
    file = FolderFile(repo_name, path, found.location, size, source.licenses, source.stars, source.kind)
    if not source.licenses and is_license_file(path) and size <= MAX_LICENSE_BYTES:
        listing.licenses += _license_text(file)
    return file


def _license_text(file: FolderFile) -> list[LicenseText]:
    # a licence file that cannot be read is refused again, and counted, when its unit is read
    return [
        LicenseText(item.repo_name, item.path, item.content.decode("utf-8", "replace"))
        for item in file.read(MAX_LICENSE_BYTES)
        if isinstance(item, Item) and isinstance(item.content, bytes)
    ]


def _root(source: FolderSource) -> Path:
    root = Path(source.path).expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"sources: path = {source.path!r}: {what}; give a folder with source files")
    return root


@dataclass(frozen=True)
class Found:
    """What is no folder to enter, by its path below the root; or a folder that is closed."""

    relative: str
    location: str
    status: os.stat_result | None  # of the entry itself, links are not followed; None: it cannot be asked
    trouble: str = ""


def _files(source: FolderSource, root: str, below: str = "") -> Iterator[Found]:
    """Everything below the root (or an entry of it) that is no folder, in the order of the relative paths."""
    if below and not below.endswith("/"):
        if not excluded(below, source.exclude):
            yield _found(root, below)
        return
    try:
        names = _names_in(root, os.path.join(root, below))  # noqa: PTH118 - names may not be UTF-8
        for name in sorted_names(names):
            if name.endswith("/"):
                yield from _files(source, root, below + name)
            elif not excluded(below + name, source.exclude):
                yield _found(root, below + name)
    except PermissionError as error:
        yield Found(below.rstrip("/"), os.path.join(root, below), None, error.strerror or "")  # noqa: PTH118


def _found(root: str, relative: str) -> Found:
    location = os.path.join(root, relative)  # noqa: PTH118
    try:
        return Found(relative, location, os.lstat(location))
    except OSError as error:  # it has gone since its folder was read
        return Found(relative, location, None, error.strerror or type(error).__name__)


def _names_in(root: str, folder: str) -> Iterator[str]:
    """Names in a folder, those of folders with a slash behind: so they sort as the paths below them do."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry.name
            elif entry.name not in SKIPPED_FOLDERS:
                yield entry.name + "/"


T = TypeVar("T", str, tuple[str, str])


def sorted_names(names: Iterable[T]) -> Iterator[T]:
    """`sorted`, in the memory of one run: more than that goes through sorted runs on disk (external merge sort)."""
    waiting = iter(names)
    runs: list[IO[bytes]] = []
    while True:
        run = sorted(itertools.islice(waiting, RUN_NAMES))
        if len(run) < RUN_NAMES and not runs:
            return iter(run)
        if not run:
            return heapq.merge(*(_read_run(file) for file in runs))
        file = tempfile.TemporaryFile()  # noqa: SIM115 - read, and closed, by the merge
        for start in range(0, len(run), RUN_BATCH):
            pickle.dump(run[start : start + RUN_BATCH], file)
        file.seek(0)
        runs.append(file)


def _read_run(file: IO[bytes]) -> Iterator[Any]:
    with file:
        while True:
            try:
                yield from pickle.load(file)
            except EOFError:
                return
