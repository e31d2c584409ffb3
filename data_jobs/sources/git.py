"""Files of git repositories, bare or not, at a ref; read from the object store, nothing is checked out."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_jobs.licenses.files import MAX_LICENSE_BYTES, evidence_kind
from data_jobs.sources.entries import (
    UNIT_BYTES,
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
from data_jobs.sources.names import excluded
from starloom.config import Config
from starloom.errors import StorageError, UserError, one_line
from starloom.storage import matching_files


class GitSource(Config, Independent):
    """One repository, or as many as a glob pattern names (``/srv/git/**/*.git``)."""

    kind: Literal["git"] = "git"
    path: str
    ref: str = "HEAD"
    repo_name: str | None = None  # default: the folder's name, with its parent's: owner/repo
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def places(self, state: Any = None) -> list["GitPlace"]:
        """The repositories."""
        return [GitPlace(self, folder) for folder in matching_files(self.path, setting="sources", what="repository")]

    def state(self) -> Any:
        """The commit of each repository."""
        return git_state(self.path, self.ref)


@dataclass(frozen=True)
class Blob:
    """A file of a tree."""

    path: str
    oid: str
    size: int


@dataclass(frozen=True)
class GitBlobs:
    """Some files of one commit."""

    folder: str
    repo_name: str
    commit: str
    blobs: tuple[Blob, ...]
    licenses: tuple[str, ...]
    stars: int | None
    scope: str

    @property
    def size(self) -> int:
        """Bytes of all the files."""
        return sum(blob.size for blob in self.blobs)

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """The files; one whose object is damaged is refused."""
        repository = open_repository(self.folder)
        for blob in self.blobs:
            limit = limits.of(blob.path)
            if blob.size > limit:
                yield Refusal(self.repo_name, blob.path, "too_large", f"{blob.size} bytes, limit {limit}")
                continue
            try:
                content = repository[blob.oid].data
            except git_errors() as error:
                yield Refusal(
                    self.repo_name, blob.path, "corrupt_git_object", f"{blob.oid}: {told(error, self.folder)}"
                )
                continue
            yield Item(
                self.repo_name, blob.path, content, self.licenses, self.stars, self.commit, "git", scope=self.scope
            )


def git_errors() -> tuple[type[Exception], ...]:
    """What reading an object of a repository may raise."""
    import pygit2

    return (KeyError, ValueError, pygit2.GitError, OSError)


_MACHINE_WORDS = tuple(
    os.strerror(code)
    for code in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)


def told(error: Exception, folder: str) -> str:
    """What is wrong with an object, where it is a fault of the repository.

    Raises:
        StorageError: it is one of the machine: the repository has gone, or its disk does not answer.
    """
    # libgit2 tells the system's errors by their words alone
    system = any(word in str(error) for word in _MACHINE_WORDS)
    system = system or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError))
    if system or not Path(folder).is_dir():
        raise StorageError(f"{folder}: cannot be read ({one_line(error, 200)}); no file is left out for it") from error
    return one_line(error, 200)


class UnusableError(ValueError):
    """A repository that holds nothing to read; the message says why."""


def open_repository(folder: str) -> Any:
    """A pygit2 repository.

    Raises:
        StorageError: the folder is not there.
        UnusableError: it is no repository, or one that this library cannot read.
    """
    import pygit2

    # reading objects runs none of the repository's hooks or config, so its owner does not matter
    pygit2.option(pygit2.enums.Option.SET_OWNER_VALIDATION, 0)
    try:
        return pygit2.Repository(folder)
    except git_errors() as error:
        raise UnusableError(f"not a git repository that can be read ({told(error, folder)})") from None


def head_commit(repository: Any, folder: str, ref: str) -> Any:
    """The commit that a ref names.

    Raises:
        UnusableError: there is none.
    """
    import pygit2

    if repository.is_empty:
        raise UnusableError("the repository is empty")
    try:
        return repository.revparse_single(ref).peel(pygit2.Commit)
    except git_errors() as error:
        raise UnusableError(f"ref {ref!r} is not in it ({told(error, folder)})") from None


def git_state(pattern: str, ref: str) -> list[list[str]]:
    """Each repository with the commit that the ref stands at, or why there is none.

    Raises:
        UserError: the one repository that is named cannot be used.
    """
    folders = matching_files(pattern, setting="sources", what="repository")
    states = []
    for folder in folders:
        try:
            states.append([folder, str(head_commit(open_repository(folder), folder, ref).id)])
        except UnusableError as error:
            if folders == [pattern] and ("not a git" in str(error) or ref != "HEAD"):
                raise UserError(f"sources: path = {folder!r}: {error}; name a repository and a branch or tag") from None
            states.append([folder, str(error)])
    return states


def repository_scope(folder: str) -> str:
    """The place of a repository, by which licences are inherited: the same for its files and its history."""
    return str(Path(folder).resolve()).removesuffix("/.git")


def repository_name(folder: str) -> str:
    """``owner/repo`` from the last two folders of the repository's path, ``.git`` removed."""
    plain = str(Path(folder).absolute()).removesuffix("/.git").removesuffix(".git")
    parts = [part for part in plain.split("/") if part]
    return "/".join(parts[-2:]) if parts else "repository"


@dataclass(frozen=True)
class GitPlace:
    """One repository."""

    source: GitSource
    folder: str

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """Every blob of the ref's tree; a repository that cannot be used is one refusal."""
        source, folder = self.source, self.folder
        repo_name = source.repo_name or repository_name(folder)
        try:
            repository = open_repository(folder)
            commit = head_commit(repository, folder, source.ref)
        except UnusableError as error:
            yield refused(repo_name, "/", "unusable_repository", str(error))
            return
        scope = repository_scope(folder)

        def unit(blobs: tuple[Blob, ...]) -> GitBlobs:
            return GitBlobs(folder, repo_name, str(commit.id), blobs, source.licenses, source.stars, scope)

        blobs: list[Blob] = []
        size = 0
        for found in blobs_of(repository, folder, repo_name, commit):
            if isinstance(found, Refused):
                yield found
            elif not excluded(found.path, source.exclude):
                if not source.licenses:
                    yield from license_blob(unit((found,)))
                if blobs and size + found.size > UNIT_BYTES:
                    yield unit(tuple(blobs))
                    blobs, size = [], 0
                blobs.append(found)
                size += found.size
        if blobs:
            yield unit(tuple(blobs))


def license_blob(unit: GitBlobs) -> Iterator[LicenseFile]:
    """The one file of the unit, where it tells a licence."""
    (blob,) = unit.blobs
    kind = evidence_kind(blob.path, blob.size)
    for item in unit.read(Limits(MAX_LICENSE_BYTES, MAX_LICENSE_BYTES)) if kind else ():
        if kind and isinstance(item, Item) and isinstance(item.content, bytes):
            yield from license_file(unit.scope, unit.repo_name, blob.path, kind, item.content)


def blobs_of(repository: Any, folder: str, repo_name: str, commit: Any) -> Iterator[Blob | Refused]:
    """Every regular file of a commit in the order of its paths; what is not one, or is damaged, as a refusal."""
    import pygit2

    waiting: list[tuple[str, Any]] = [("", commit.tree_id)]
    while waiting:
        path, entry = waiting.pop()
        if path == "" or entry.filemode == pygit2.enums.FileMode.TREE:
            try:
                below = list(repository[entry if path == "" else entry.id])
            except git_errors() as error:
                yield refused(repo_name, path.rstrip("/") or "/", "corrupt_git_object", told(error, folder))
                continue
            # git sorts folders as if a slash stood behind their names, and so do paths
            waiting += [(path + _name(one), one) for one in reversed(below)]
        elif entry.filemode == pygit2.enums.FileMode.LINK:
            yield refused(repo_name, path, "symlink")
        elif entry.filemode == pygit2.enums.FileMode.COMMIT:
            yield refused(repo_name, path, "submodule")
        elif not _decodes(entry.raw_name):
            yield refused(repo_name, path, "path_not_utf8")
        else:
            try:
                yield Blob(path, str(entry.id), repository.odb.read_header(entry.id)[1])
            except git_errors() as error:
                yield refused(repo_name, path, "corrupt_git_object", told(error, folder))


def _name(entry: Any) -> str:
    import pygit2

    name: str = entry.raw_name.decode("utf-8", "backslashreplace")
    return name + "/" if entry.filemode == pygit2.enums.FileMode.TREE else name


def _decodes(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
