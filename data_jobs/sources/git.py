"""Files of git repositories, bare or not, at a ref; read from the object store, nothing is checked out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_jobs.licenses import MAX_LICENSE_BYTES, is_license_file
from data_jobs.sources.entries import UNIT_BYTES, Item, LicenseText, Listing, Refusal, grouped
from data_jobs.sources.names import excluded
from starloom.config import Config
from starloom.errors import UserError, one_line
from starloom.storage import matching_files


class GitSource(Config):
    """One repository, or as many as a glob pattern names (``/srv/git/**/*.git``)."""

    kind: Literal["git"] = "git"
    path: str
    ref: str = "HEAD"
    repo_name: str | None = None  # default: the folder's name, with its parent's: owner/repo
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def listing(self, state: Any = None) -> Listing:
        """Every blob of the ref's tree."""
        listing = Listing()
        for folder in matching_files(self.path, setting="sources", what="repository"):
            _list_repository(self, folder, listing)
        return listing

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

    @property
    def size(self) -> int:
        """Bytes of all the files."""
        return sum(blob.size for blob in self.blobs)

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """The files; one whose object is damaged is refused."""
        import pygit2

        repository = open_repository(self.folder)
        for blob in self.blobs:
            if blob.size > max_file_bytes:
                yield Refusal(self.repo_name, blob.path, "too_large", f"{blob.size} bytes, limit {max_file_bytes}")
                continue
            try:
                content = repository[blob.oid].data
            except (KeyError, pygit2.GitError, ValueError) as error:
                yield Refusal(self.repo_name, blob.path, "corrupt_git_object", f"{blob.oid}: {one_line(error, 200)}")
                continue
            yield Item(self.repo_name, blob.path, content, self.licenses, self.stars, self.commit, "git")


def open_repository(folder: str) -> Any:
    """A pygit2 repository; `UserError` when the folder is none."""
    import pygit2

    # reading objects runs none of the repository's hooks or config, so its owner does not matter
    pygit2.option(pygit2.enums.Option.SET_OWNER_VALIDATION, 0)
    try:
        return pygit2.Repository(folder)
    except pygit2.GitError as error:
        raise UserError(f"sources: path = {folder!r}: not a git repository ({one_line(error, 200)})") from None


def resolve_ref(repository: Any, folder: str, ref: str) -> Any:
    """The commit that a ref names; `UserError` when there is none."""
    import pygit2

    try:
        return repository.revparse_single(ref).peel(pygit2.Commit)
    except (KeyError, ValueError, pygit2.GitError) as error:
        raise UserError(
            f"sources: ref = {ref!r}: not in {folder} ({one_line(error, 200)}); name a branch or tag"
        ) from None


def git_state(pattern: str, ref: str) -> list[list[str]]:
    """Each repository with the commit that the ref stands at."""
    folders = matching_files(pattern, setting="sources", what="repository")
    return [[folder, str(resolve_ref(open_repository(folder), folder, ref).id)] for folder in folders]


def repository_name(folder: str) -> str:
    """``owner/repo`` from the last two folders of the repository's path, ``.git`` removed."""
    plain = str(Path(folder).absolute()).removesuffix("/.git").removesuffix(".git")
    parts = [part for part in plain.split("/") if part]
    return "/".join(parts[-2:]) if parts else "repository"


def _list_repository(source: GitSource, folder: str, listing: Listing) -> None:
    repository = open_repository(folder)
    commit = resolve_ref(repository, folder, source.ref)
    repo_name = source.repo_name or repository_name(folder)
    blobs: list[Blob] = []
    for blob in _blobs(repository, repo_name, commit, listing):
        if excluded(blob.path, source.exclude):
            continue
        blobs.append(blob)
        if not source.licenses and is_license_file(blob.path) and blob.size <= MAX_LICENSE_BYTES:
            unit = GitBlobs(folder, repo_name, str(commit.id), (blob,), (), None)
            for item in unit.read(MAX_LICENSE_BYTES):
                if isinstance(item, Item) and isinstance(item.content, bytes):
                    listing.licenses.append(LicenseText(repo_name, blob.path, item.content.decode("utf-8", "replace")))
    for group in grouped(sorted(blobs, key=lambda blob: blob.path), UNIT_BYTES, lambda blob: blob.size):
        listing.units.append(GitBlobs(folder, repo_name, str(commit.id), group, source.licenses, source.stars))


def _blobs(repository: Any, repo_name: str, commit: Any, listing: Listing) -> Iterator[Blob]:
    """Every regular file of a commit in path order; what is not one, or is damaged, goes to the refusals."""
    import pygit2

    damaged = (KeyError, pygit2.GitError, ValueError)
    waiting: list[tuple[str, Any]] = [("", commit.tree_id)]
    while waiting:
        prefix, oid = waiting.pop()
        try:
            entries = list(repository[oid])
        except damaged as error:
            listing.refusals.append(Refusal(repo_name, prefix or "/", "corrupt_git_object", one_line(error, 200)))
            continue
        for entry in sorted(entries, key=lambda found: found.raw_name):
            path = prefix + entry.raw_name.decode("utf-8", "backslashreplace")
            if entry.filemode == pygit2.enums.FileMode.TREE:
                waiting.append((path + "/", entry.id))
            elif entry.filemode == pygit2.enums.FileMode.LINK:
                listing.refusals.append(Refusal(repo_name, path, "symlink"))
            elif entry.filemode == pygit2.enums.FileMode.COMMIT:
                listing.refusals.append(Refusal(repo_name, path, "submodule"))
            elif not _decodes(entry.raw_name):
                listing.refusals.append(Refusal(repo_name, path, "path_not_utf8"))
            else:
                try:
                    size = repository.odb.read_header(entry.id)[1]
                except damaged as error:
                    listing.refusals.append(Refusal(repo_name, path, "corrupt_git_object", one_line(error, 200)))
                    continue
                yield Blob(path, str(entry.id), size)


def _decodes(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
