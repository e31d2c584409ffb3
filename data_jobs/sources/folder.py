"""Source files in folders: a checkout, a folder of checkouts, or the standard library of the running Python."""

import fnmatch
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data_jobs.sources.entries import Entry, Listing, Refusal
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
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    exclude: tuple[str, ...] = ()


class StandardLibrarySource(Config):
    """The standard library of the Python that runs the job; each top-level package or module is a repository."""

    kind: Literal["python-stdlib"] = "python-stdlib"
    exclude: tuple[str, ...] = ()


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
    """Every file below the folder. Links are not followed (a loop of links is one refusal), nothing is opened.

    Raises:
        UserError: the folder does not exist or is no folder.
    """
    root = Path(source.path).expanduser()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "no such folder"
        raise UserError(f"sources: path = {source.path!r}: {what}; give a folder with source files")
    listing = Listing()
    base_name = source.repo_name or root.resolve().name
    for relative, entry in _walk(str(root)):
        if any(fnmatch.fnmatch(relative, pattern) for pattern in source.exclude):
            continue
        repo_name, path = _named(source, base_name, relative)
        if not _is_utf8(relative):
            shown = relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            repo_name, path = _named(source, base_name, shown)
            listing.refusals.append(Refusal(repo_name, path, "path_not_utf8"))
        elif entry.is_symlink():
            listing.refusals.append(Refusal(repo_name, path, "symlink"))
        elif not entry.is_file(follow_symlinks=False):
            listing.refusals.append(Refusal(repo_name, path, "not_a_regular_file"))
        else:
            size = entry.stat(follow_symlinks=False).st_size
            listing.entries.append(
                Entry(repo_name, path, entry.path, size, source.licenses, source.stars, None, source.kind)
            )
    return listing.sort()


def _walk(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
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


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
