"""Source files in folders: a checkout, a folder of checkouts, or the standard library of the running Python."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_jobs.licenses import MAX_LICENSE_BYTES, is_license_file
from data_jobs.sources.entries import Item, LicenseText, Listing, Refusal, excluded, is_utf8, printable
from starloom.config import Config
from starloom.errors import UserError

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

    def listing(self) -> Listing:
        """Every file below the folder."""
        return list_folder(self)

    def state(self) -> Any:
        """A hash over name, size and time of change of every file."""
        digest = hashlib.sha256()
        for relative, size, changed in sorted(_states(self)):
            digest.update(f"{relative}\0{size}\0{changed}\n".encode("utf-8", "surrogateescape"))
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

    Raises:
        UserError: the folder does not exist or is no folder.
    """
    base_name = source.repo_name or _root(source).resolve().name
    listing = Listing()
    files: list[FolderFile] = []
    for relative, entry in _entries(source, listing):
        repo_name, path = _named(source, base_name, printable(relative))
        if not is_utf8(relative):
            listing.refusals.append(Refusal(repo_name, path, "path_not_utf8"))
        elif entry.is_symlink():
            listing.refusals.append(Refusal(repo_name, path, "symlink"))
        elif not entry.is_file(follow_symlinks=False):
            listing.refusals.append(Refusal(repo_name, path, "not_a_regular_file"))
        else:
            size = entry.stat(follow_symlinks=False).st_size
            files.append(FolderFile(repo_name, path, entry.path, size, source.licenses, source.stars, source.kind))
            if not source.licenses and is_license_file(path) and size <= MAX_LICENSE_BYTES:
                listing.licenses += _license_text(files[-1])
    files.sort(key=lambda file: (file.repo_name, file.path))
    listing.units += files
    listing.refusals.sort(key=lambda refusal: (refusal.repo_name, refusal.path, refusal.reason))
    return listing


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


def _entries(source: FolderSource, listing: Listing) -> Iterator[tuple[str, os.DirEntry[str]]]:
    for relative, entry in _walk(str(_root(source)), listing):
        if not excluded(relative, source.exclude):
            yield relative, entry


def _states(source: FolderSource) -> Iterator[tuple[str, int, int]]:
    for relative, entry in _entries(source, Listing()):
        stat = entry.stat(follow_symlinks=False)
        yield relative, stat.st_size, stat.st_mtime_ns


def _walk(root: str, listing: Listing) -> Iterator[tuple[str, os.DirEntry[str]]]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = os.scandir(folder)
        except PermissionError as error:
            where = printable(os.path.relpath(folder, root))
            listing.refusals.append(Refusal(Path(root).name, where, "unreadable", error.strerror or ""))
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in SKIPPED_FOLDERS:
                        waiting.append(entry.path)
                else:
                    yield os.path.relpath(entry.path, root), entry


def _named(source: FolderSource, base_name: str, relative: str) -> tuple[str, str]:
    if source.repositories == "whole":
        return base_name, relative
    top, separator, rest = relative.partition("/")
    prefix = f"{source.repo_name}/" if source.repo_name else ""
    if separator:
        return prefix + top, rest
    return prefix + Path(top).stem, top
