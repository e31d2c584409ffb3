"""Source files in folders: a checkout, a folder of checkouts, or the standard library of the running Python."""

import errno
import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_jobs.licenses.files import MAX_LICENSE_BYTES, Kind, evidence_kind
from data_jobs.sources import walks
from data_jobs.sources.entries import (
    Independent,
    Item,
    LicenseFile,
    Limits,
    Listed,
    Refusal,
    Refused,
    Spill,
    license_file,
    refused,
)
from data_jobs.sources.glance import Glance
from data_jobs.sources.names import excluded, is_utf8, wholly_excluded
from data_jobs.sources.seen import digested
from data_jobs.sources.walks import Found, sorted_names
from starloom.config import Config
from starloom.errors import StorageError, UserError
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


class FolderSource(Config, Independent):
    """A folder. With ``repositories = "children"`` each entry directly below it is a repository of its own."""

    kind: Literal["folder"] = "folder"
    path: str
    repositories: Literal["whole", "children"] = "whole"
    repo_name: str | None = None
    licenses: tuple[str, ...] = ()  # of every file; empty: found in licence files and headers
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def places(self, state: Any = None) -> list["FolderPlace"]:
        """The folder, which must exist."""
        _root(self)
        return [FolderPlace(self, state if isinstance(state, str) else None)]

    def state(self) -> Any:
        """A hash over the names and contents of all files; only those that have changed are read."""
        root, key = str(_root(self)), "\n".join(self.exclude)
        glance = Glance(root, key, lambda folder: _enters(self, folder))
        return glance.state() or glance.before(walks.remembered, digested(root, _files(self, root), key))

    def timed(self) -> Any:
        """The state as it was before there were digests: over name, size and time of change of every file."""
        return walks.remembered(_files(self, str(_root(self))))


class StandardLibrarySource(Config, Independent):
    """The standard library of the Python that runs the job; each top-level package or module is a repository."""

    kind: Literal["python-stdlib"] = "python-stdlib"
    exclude: tuple[str, ...] = ()

    def places(self, state: Any = None) -> list["FolderPlace"]:
        """The folder of the library."""
        return standard_library(self).places(state)

    def state(self) -> Any:
        """A hash over the names and contents of all files."""
        return standard_library(self).state()

    def timed(self) -> Any:
        """The state of before, over names, sizes and times."""
        return standard_library(self).timed()


@dataclass(frozen=True)
class FolderFile:
    """One file on disk, below a root that every node must have."""

    repo_name: str
    path: str
    root: str
    relative: str
    size: int  # bytes, when it was listed
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    source: str = "folder"
    scope: str = ""

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """The file, or why it cannot be read."""
        limit = limits.of(self.path)
        try:
            with open(os.path.join(self.root, self.relative), "rb") as file:  # noqa: PTH118 - names may not be UTF-8
                content = file.read(limit + 1)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            yield Refusal(self.repo_name, self.path, "unreadable", own_fault(error, self.root))
            return
        if len(content) > limit:
            yield Refusal(self.repo_name, self.path, "too_large", f"{size} bytes, limit {limit}")
        else:
            yield Item(
                self.repo_name, self.path, content, self.licenses, self.stars, None, self.source, scope=self.scope
            )


# what is wrong with one name alone: it has gone, is closed, is a loop of links, is too long
_OWN_FAULTS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENXIO}
)


def own_fault(error: OSError, root: str) -> str:
    """What is wrong with a file below a root, where it is a fault of that file alone.

    Raises:
        StorageError: it is one of the machine: an error of the disk, a root that is not mounted here.
    """
    if error.errno not in _OWN_FAULTS or not Path(root).is_dir():
        where = root if not Path(root).is_dir() else str(error.filename or root)
        raise StorageError(
            f"{printable(where)}: cannot be read ({error.strerror or error}); no file is left out for it"
        ) from error
    return error.strerror or type(error).__name__


def standard_library(source: StandardLibrarySource) -> FolderSource:
    """The folder behind a `StandardLibrarySource`."""
    return FolderSource(
        path=sysconfig.get_path("stdlib"),
        repositories="children",
        repo_name="cpython",
        licenses=("Python-2.0",),
        exclude=("site-packages/*", "dist-packages/*", "lib-dynload/*", "config-*", "*.so", *source.exclude),
    )


@dataclass(frozen=True)
class FolderPlace:
    """A folder, and the digest of the walk that has seen it, if there was one."""

    source: FolderSource
    walk: str | None = None

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """Every file below the folder, by (repo_name, path). Links are not followed (a loop of links is one refusal).

        The names of one folder at a time are in memory, and of a large folder no more than a run of them. What was seen
        when the `state` was asked for is not walked again on the same machine.
        """
        root = str(_root(self.source))
        seen = walks.recalled(self.walk) if self.walk else None
        for file in _units(self.source, root, _files(self.source, root) if seen is None else seen):
            yield file
            if isinstance(file, FolderFile) and not self.source.licenses:
                kind = evidence_kind(file.path, file.size)
                if kind:
                    yield from _evidence(file, kind)


def _units(source: FolderSource, root: str, seen: Iterable[Found]) -> Iterator[FolderFile | Refused]:
    base_name = source.repo_name or Path(root).resolve().name
    scope = str(Path(root).resolve())
    if source.repositories == "whole":
        yield from (_unit(source, root, base_name, found.relative, found, scope) for found in seen)
        return
    prefix = f"{source.repo_name}/" if source.repo_name else ""
    # a file and a folder directly below may name the same repository: their files are merged by path
    for repo_name, path, found in sorted_names((*_below_top(found), found) for found in seen):
        top = found.relative.partition("/")[0]
        yield _unit(source, root, prefix + repo_name, path, found, f"{scope}/{printable(top)}")


def _below_top(found: Found) -> tuple[str, str]:
    """The repository of the entry directly below the root, and the path in it: a file is named by itself."""
    top, separator, rest = found.relative.partition("/")
    return (printable(top), rest) if separator else (printable(PurePosixPath(top).stem), top)


def _unit(
    source: FolderSource, root: str, repo_name: str, relative: str, found: Found, scope: str
) -> FolderFile | Refused:
    path = printable(relative.rstrip("/"))
    if found.mode is None:
        return refused(repo_name, path, "unreadable", found.trouble)
    if not is_utf8(found.relative):
        return refused(repo_name, path, "path_not_utf8")
    if stat.S_ISLNK(found.mode):
        return refused(repo_name, path, "symlink")
    if not stat.S_ISREG(found.mode):
        return refused(repo_name, path, "not_a_regular_file")
    return FolderFile(
        repo_name, path, root, found.relative, found.size, source.licenses, source.stars, source.kind, scope
    )


def _evidence(file: FolderFile, kind: Kind) -> Iterator[LicenseFile]:
    # a file that cannot be read is refused, and counted, when its unit is read
    for item in file.read(Limits(MAX_LICENSE_BYTES, MAX_LICENSE_BYTES)):
        if isinstance(item, Item) and isinstance(item.content, bytes):
            yield from license_file(file.scope, file.repo_name, file.path, kind, item.content)


def _root(source: FolderSource) -> Path:
    root = Path(source.path).expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"sources: path = {source.path!r}: {what}; give a folder with source files")
    return root


def _files(source: FolderSource, root: str) -> Iterator[Found]:
    """Everything below the root that is no folder, in the order of the relative paths; and folders that are closed.

    The folders on the way down are a list of iterators: no depth of theirs is too deep for it.
    """
    waiting = [("", _names_in(root, ""))]
    while waiting:
        below, names = waiting[-1]
        try:
            name = next(names, None)
        except OSError as error:
            waiting.pop()
            yield Found(below, None, 0, 0, own_fault(error, root))
            continue
        if name is None:
            waiting.pop()
        elif name.endswith("/"):
            if _enters(source, below + name):
                waiting.append((below + name, _names_in(root, below + name)))
        elif not (source.exclude and excluded(below + name, source.exclude)):
            yield _found(root, below + name)


def _enters(source: FolderSource, folder: str) -> bool:
    return folder.split("/")[-2] not in SKIPPED_FOLDERS and not wholly_excluded(folder, source.exclude)


def _found(root: str, relative: str) -> Found:
    try:
        status = os.lstat(f"{root}/{relative}")
    except OSError as error:  # it has gone since its folder was read
        return Found(relative, None, 0, 0, own_fault(error, root))
    version = (status.st_ctime_ns, status.st_ino)
    return Found(relative, status.st_mode, status.st_size, status.st_mtime_ns, version=version)


def _names_in(root: str, below: str) -> Iterator[str]:
    """Names in a folder in order, those of folders with a slash behind: so they sort as the paths below them do."""
    yield from sorted_names(_entries(os.path.join(root, below)))  # noqa: PTH118 - names may not be UTF-8


def _entries(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
