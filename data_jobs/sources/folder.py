"""Source files in folders: a checkout, a folder of checkouts, or the standard library of the running Python."""

import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from data_jobs.licenses import MAX_LICENSE_BYTES, is_license_file
from data_jobs.sources import walks
from data_jobs.sources.entries import Item, LicenseText, Listing, Refusal, Refused
from data_jobs.sources.names import excluded, is_utf8
from data_jobs.sources.walks import Found, sorted_names
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


class FolderSource(Config):
    """A folder. With ``repositories = "children"`` each entry directly below it is a repository of its own."""

    kind: Literal["folder"] = "folder"
    path: str
    repositories: Literal["whole", "children"] = "whole"
    repo_name: str | None = None
    licenses: tuple[str, ...] = ()  # of every file; empty: found in licence files and headers
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def listing(self, state: Any = None) -> Listing:
        """Every file below the folder."""
        return list_folder(self, state)

    def state(self) -> Any:
        """A hash over name, size and time of change of every file."""
        return walks.remembered(_files(self, str(_root(self))))


class StandardLibrarySource(Config):
    """The standard library of the Python that runs the job; each top-level package or module is a repository."""

    kind: Literal["python-stdlib"] = "python-stdlib"
    exclude: tuple[str, ...] = ()

    def listing(self, state: Any = None) -> Listing:
        """Every file of the library."""
        return list_folder(standard_library(self), state)

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


def list_folder(source: FolderSource, state: Any = None) -> Listing:
    """Every file below the folder, by (repo_name, path). Links are not followed (a loop of links is one refusal).

    The files are found while they are asked for: the names of one folder at a time are in memory, and of a large folder
    no more than a run of them. What was seen when the `state` was asked for is not walked again on the same machine.

    Raises:
        UserError: the folder does not exist or is no folder.
    """
    root = _root(source)
    seen = walks.recalled(state) if isinstance(state, str) else None
    listing = Listing()
    listing.later = _units(source, str(root), _files(source, str(root)) if seen is None else seen, listing)
    return listing


def _units(source: FolderSource, root: str, seen: Iterable[Found], listing: Listing) -> Iterator[FolderFile | Refused]:
    base_name = source.repo_name or Path(root).resolve().name
    if source.repositories == "whole":
        yield from (_unit(source, root, base_name, found.relative, found, listing) for found in seen)
        return
    prefix = f"{source.repo_name}/" if source.repo_name else ""
    # a file and a folder directly below may name the same repository: their files are merged by path
    for repo_name, path, found in sorted_names((*_below_top(found), found) for found in seen):
        yield _unit(source, root, prefix + repo_name, path, found, listing)


def _below_top(found: Found) -> tuple[str, str]:
    """The repository of the entry directly below the root, and the path in it: a file is named by itself."""
    top, separator, rest = found.relative.partition("/")
    return (printable(top), rest) if separator else (printable(PurePosixPath(top).stem), top)


def _unit(
    source: FolderSource, root: str, repo_name: str, relative: str, found: Found, listing: Listing
) -> FolderFile | Refused:
    path = printable(relative.rstrip("/"))
    if found.mode is None:
        return Refused(Refusal(repo_name, path, "unreadable", found.trouble))
    if not is_utf8(found.relative):
        return Refused(Refusal(repo_name, path, "path_not_utf8"))
    if stat.S_ISLNK(found.mode):
        return Refused(Refusal(repo_name, path, "symlink"))
    if not stat.S_ISREG(found.mode):
        return Refused(Refusal(repo_name, path, "not_a_regular_file"))
    location = os.path.join(root, found.relative)  # noqa: PTH118 - names may not be UTF-8
    file = FolderFile(repo_name, path, location, found.size, source.licenses, source.stars, source.kind)
    if not source.licenses and is_license_file(path) and found.size <= MAX_LICENSE_BYTES:
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


def _files(source: FolderSource, root: str, below: str = "") -> Iterator[Found]:
    """Everything below the root that is no folder, in the order of the relative paths; and folders that are closed."""
    try:
        names = _names_in(root, os.path.join(root, below))  # noqa: PTH118 - names may not be UTF-8
        for name in sorted_names(names):
            if name.endswith("/"):
                yield from _files(source, root, below + name)
            elif not excluded(below + name, source.exclude):
                yield _found(root, below + name)
    except PermissionError as error:
        yield Found(below, None, 0, 0, error.strerror or "")


def _found(root: str, relative: str) -> Found:
    try:
        status = os.lstat(os.path.join(root, relative))  # noqa: PTH118
    except OSError as error:  # it has gone since its folder was read
        return Found(relative, None, 0, 0, error.strerror or type(error).__name__)
    return Found(relative, status.st_mode, status.st_size, status.st_mtime_ns)


def _names_in(root: str, folder: str) -> Iterator[str]:
    """Names in a folder, those of folders with a slash behind: so they sort as the paths below them do."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry.name
            elif entry.name not in SKIPPED_FOLDERS:
                yield entry.name + "/"
