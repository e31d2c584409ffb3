"""Source archives: ``.tar`` in any compression, ``.zip``, wheels, sdists. They are read, never unpacked to disk."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from data_jobs.licenses import MAX_LICENSE_BYTES, is_license_file
from data_jobs.sources.entries import UNIT_BYTES, Item, LicenseText, Listing, Refusal, grouped
from data_jobs.sources.names import excluded, is_utf8, safe_member
from starloom import storage
from starloom.config import Config
from starloom.errors import one_line
from starloom.storage import file_state, matching_files, printable

ZIP_SUFFIXES = (".zip", ".whl", ".egg", ".jar")
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tzst", ".tar.zst", ".crate")
SUFFIXES = (*TAR_SUFFIXES, *ZIP_SUFFIXES)
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, NotImplementedError)
# A bomb unpacks to far more than source text does: real archives of source stay below 20 to 1.
BOMB_RATIO = 200
BOMB_FLOOR_BYTES = 64 << 20


class ArchiveSource(Config):
    """Archives: one file, a glob pattern, a folder of archives or a URL. Each archive is a repository of its own."""

    kind: Literal["archive"] = "archive"
    path: str
    repo_name: str | None = None  # default: the file's name without its suffix
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def listing(self, state: Any = None) -> Listing:
        """Every member of every archive, from one pass over each."""
        listing = Listing()
        for location in self._archives():
            _list_archive(self, location, listing)
        return listing

    def state(self) -> Any:
        """Name, size and time of change of each archive."""
        return file_state(self._archives())

    def _archives(self) -> list[str]:
        found: list[str] = []
        for name in matching_files(self.path, setting="sources", what="archive"):
            if not storage.is_remote(name) and Path(name).is_dir():
                found += [str(file) for file in Path(name).rglob("*") if file.name.endswith(SUFFIXES)]
            else:
                found.append(name)
        return sorted(found)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its place among all members, its name there, and its path in the repository."""

    number: int
    name: str
    path: str
    size: int


@dataclass(frozen=True)
class ArchiveMembers:
    """Neighbouring members of one archive."""

    location: str
    repo_name: str
    members: tuple[Member, ...]
    licenses: tuple[str, ...]
    stars: int | None

    @property
    def size(self) -> int:
        """Bytes of all the members, as the archive declares them."""
        return sum(member.size for member in self.members)

    def read(self, max_file_bytes: int) -> Iterator[Item | Refusal]:
        """The members; from the first damaged one on they are refused."""
        done = 0
        wanted = {member.number: member for member in self.members}
        try:
            with _opened(self.location) as archive:
                for number, entry in enumerate(archive.entries(last=self.members[-1].number)):
                    member = wanted.get(number)
                    if member is None:
                        continue
                    outcome = self._read_member(archive, entry, member, max_file_bytes)
                    done += 1
                    yield outcome
        except DAMAGED as error:
            for member in self.members[done:]:
                yield Refusal(self.repo_name, member.path, "damaged_archive", _why(error))

    def _read_member(self, archive: "_Opened", entry: Any, member: Member, limit: int) -> Item | Refusal:
        if member.size > limit:
            return Refusal(self.repo_name, member.path, "too_large", f"{member.size} bytes, limit {limit}")
        content = archive.content(entry, limit + 1)
        if len(content) > limit:
            return Refusal(self.repo_name, member.path, "too_large", f"more than {limit} bytes")
        return Item(self.repo_name, member.path, content, self.licenses, self.stars, None, "archive")


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    refusal: str | None  # why it is no readable file, if it is none
    handle: Any


@dataclass(frozen=True)
class _Opened:
    """Tar and zip behind the same two calls."""

    archive: tarfile.TarFile | zipfile.ZipFile

    def entries(self, last: int | None = None) -> Iterator[_Entry]:
        """Every member that is no folder, in the archive's order, up to number `last`."""
        return islice(self._all(), None if last is None else last + 1)

    def _all(self) -> Iterator[_Entry]:
        if isinstance(self.archive, zipfile.ZipFile):
            for info in self.archive.infolist():
                if not info.is_dir():
                    link = (info.external_attr >> 16) & 0o170000 == 0o120000
                    refusal = "encrypted" if info.flag_bits & 1 else "symlink" if link else None
                    yield _Entry(info.filename, info.file_size, refusal, info)
            return
        while (member := self.archive.next()) is not None:
            if not member.isdir():
                refusal = None if member.isreg() else "symlink" if member.issym() else "not_a_regular_file"
                yield _Entry(member.name, member.size, refusal, member)
            # the list of members would grow with the archive
            self.archive.members = []  # type: ignore[attr-defined]

    def content(self, entry: _Entry, limit: int) -> bytes:
        """At most `limit` bytes of a member, whatever size it declares."""
        if isinstance(self.archive, zipfile.ZipFile):
            with self.archive.open(entry.handle) as file:
                return file.read(limit)
        stream = self.archive.extractfile(entry.handle)
        if stream is None:
            return b""
        content = stream.read(limit)
        if len(content) < min(entry.size, limit):
            raise EOFError(f"{entry.name} ends early")
        return content


@contextmanager
def _opened(location: str) -> Iterator[_Opened]:
    path = storage.local_copy(location)
    if location.endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(path) as archive:
            yield _Opened(archive)
        return
    with open(path, "rb") as raw:
        with tarfile.open(fileobj=_decompressed(raw, location), mode="r|*") as archive:
            yield _Opened(archive)


def _decompressed(raw: IO[bytes], location: str) -> Any:
    if location.endswith((".zst", ".tzst")):
        import pyarrow as pa

        return pa.CompressedInputStream(raw, "zstd")
    return raw


def _list_archive(source: ArchiveSource, location: str, listing: Listing) -> None:
    file_name = PurePosixPath(printable(location)).name
    repo_name = source.repo_name or _stem(file_name)
    members: list[Member] = []
    refusals: list[Refusal] = []
    licenses: list[LicenseText] = []
    limit = max(BOMB_FLOOR_BYTES, BOMB_RATIO * file_state([location])[0][1])
    total = 0
    try:
        with _opened(location) as archive:
            for number, entry in enumerate(archive.entries()):
                total += entry.size
                if total > limit:
                    bomb = f"unpacks to more than {total} bytes, {limit} allowed"
                    listing.refusals.append(Refusal(repo_name, file_name, "archive_bomb", bomb))
                    return
                path = safe_member(entry.name)
                shown = printable(entry.name)
                if path is None:
                    refusals.append(Refusal(repo_name, shown, "path_outside_archive"))
                elif not is_utf8(entry.name):
                    refusals.append(Refusal(repo_name, shown, "path_not_utf8"))
                elif entry.refusal:
                    refusals.append(Refusal(repo_name, path, entry.refusal))
                else:
                    members.append(Member(number, entry.name, path, entry.size))
                    if not source.licenses and is_license_file(path) and entry.size <= MAX_LICENSE_BYTES:
                        text = archive.content(entry, MAX_LICENSE_BYTES).decode("utf-8", "replace")
                        licenses.append(LicenseText(repo_name, path, text))
    except DAMAGED as error:
        refusals.append(Refusal(repo_name, file_name, "damaged_archive", _why(error)))
    top = _common_top([member.path for member in members])
    inside = [replace(member, path=member.path.removeprefix(top)) for member in members]
    kept = [member for member in inside if not excluded(member.path, source.exclude)]
    for group in grouped(kept, UNIT_BYTES, lambda member: member.size):
        listing.units.append(ArchiveMembers(location, repo_name, group, source.licenses, source.stars))
    listing.refusals += [Refusal(r.repo_name, r.path.removeprefix(top), r.reason, r.detail) for r in refusals]
    listing.licenses += [LicenseText(text.repo_name, text.path.removeprefix(top), text.text) for text in licenses]


def _common_top(paths: list[str]) -> str:
    """The one folder that all members are in (``name-1.2.3/``), with its slash; empty when there is none."""
    tops = {path.partition("/")[0] for path in paths}
    return tops.pop() + "/" if len(tops) == 1 and all("/" in path for path in paths) else ""


def _stem(file_name: str) -> str:
    suffix = max((suffix for suffix in SUFFIXES if file_name.endswith(suffix)), key=len, default="")
    return file_name.removesuffix(suffix)


def _why(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)
