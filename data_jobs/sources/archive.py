"""Source archives: ``.tar`` in any compression, ``.zip``, wheels, sdists. They are read, never unpacked to disk."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from data_jobs.licenses.files import evidence_kind
from data_jobs.sources.entries import (
    Independent,
    Item,
    LicenseFile,
    Limits,
    Listed,
    Refusal,
    Spill,
    Spilled,
    license_file,
    refused,
)
from data_jobs.sources.names import excluded, is_utf8, safe_member
from starloom import storage
from starloom.config import Config
from starloom.content import files_state
from starloom.errors import StarloomError, one_line
from starloom.storage import file_state, matching_files, printable

ZIP_SUFFIXES = (".zip", ".whl", ".egg", ".jar")
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tzst", ".tar.zst", ".crate")
SUFFIXES = (*TAR_SUFFIXES, *ZIP_SUFFIXES)
# A bomb unpacks to far more than source text does: real archives of source stay below 20 to 1.
BOMB_RATIO = 200
BOMB_FLOOR_BYTES = 64 << 20


class ArchiveSource(Config, Independent):
    """Archives: one file, a glob pattern, a folder of archives or a URL. Each archive is a repository of its own."""

    kind: Literal["archive"] = "archive"
    path: str
    repo_name: str | None = None  # default: the file's name without its suffix
    licenses: tuple[str, ...] = ()
    stars: int | None = None
    exclude: tuple[str, ...] = ()

    def places(self, state: Any = None) -> list["ArchivePlace"]:
        """The archives."""
        return [ArchivePlace(self, location) for location in self._archives()]

    def state(self) -> Any:
        """Name, size and digest of each archive."""
        return files_state(self._archives())

    def timed(self) -> Any:
        """The state of before: names, sizes and times."""
        return file_state(self._archives())

    def _archives(self) -> list[str]:
        found: list[str] = []
        for name in matching_files(self.path, setting="sources", what="archive"):
            if not storage.is_remote(name) and Path(name).is_dir():
                found += [str(file) for file in Path(name).rglob("*") if file.name.lower().endswith(SUFFIXES)]
            else:
                found.append(name)
        return sorted(found)


@dataclass(frozen=True)
class ArchivePlace:
    """One archive."""

    source: ArchiveSource
    location: str

    def listing(self, spill: Spill, limits: Limits) -> Iterator[Listed]:
        """Its members, from one pass: what is read is spilled, for no place in most archives can be found again.

        From the first damage on nothing can be read; what came before stays. A bomb is refused whole.
        """
        source, location = self.source, self.location
        file_name = PurePosixPath(printable(location)).name
        repo_name = source.repo_name or _stem(file_name)
        tops: set[str] = set()
        evidence: list[LicenseFile] = []

        def outcomes() -> Iterator[Item | Refusal]:
            for found in _members(location, repo_name, limits):
                if isinstance(found, Refusal):
                    yield found
                    continue
                top, separator, _ = found.path.partition("/")
                tops.add(top + separator)
                content = found.content
                kind = None if source.licenses else evidence_kind(_below(found.path), len(content))
                if kind and isinstance(content, bytes):
                    evidence.extend(license_file(location, repo_name, found.path, kind, content))
                yield replace(found, licenses=source.licenses, stars=source.stars, scope=location)

        try:
            spilled = list(spill.units(outcomes(), location))
        except _BombError as bomb:
            yield refused(repo_name, file_name, "archive_bomb", str(bomb))
            return
        # the one folder that all members are in (name-1.2.3/); None of them is at the top then
        top = tops.pop() if len(tops) == 1 and all(top.endswith("/") for top in tops) else ""
        for unit in spilled:
            yield Members(unit, top, source.exclude)
        for file in evidence:
            inside = file.path.removeprefix(top)
            kind = evidence_kind(inside, 1)
            if kind and not excluded(inside, source.exclude):
                yield replace(file, path=inside, kind=kind)


def _below(path: str) -> str:
    """A path as it is when the first folder turns out to be that of the archive."""
    return path.partition("/")[2] or path


@dataclass(frozen=True)
class Members:
    """Some members of an archive, their paths below its one folder."""

    spilled: Spilled
    top: str
    exclude: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the members."""
        return self.spilled.size

    @property
    def scope(self) -> str:
        """The archive."""
        return self.spilled.scope

    def read(self, limits: Limits) -> Iterator[Item | Refusal]:
        """The members."""
        for found in self.spilled.read(limits):
            inside = replace(found, path=found.path.removeprefix(self.top))
            if not excluded(inside.path, self.exclude):
                yield inside


class _BombError(ValueError):
    """An archive that unpacks to far more than source text does."""


def _members(location: str, repo_name: str, limits: Limits) -> Iterator[Item | Refusal]:
    """Every member that is no folder, in the archive's order, and what is wrong with the archive at the end."""
    file_name = PurePosixPath(printable(location)).name
    with storage.open_steady(location) as raw:
        allowed = max(BOMB_FLOOR_BYTES, BOMB_RATIO * raw.seek(0, io.SEEK_END))
        raw.seek(0)
        total = 0
        try:
            for name, size, why, read in (
                _zipped(raw) if location.lower().endswith(ZIP_SUFFIXES) else _tarred(raw, location)
            ):
                total += size
                if total > allowed:
                    raise _BombError(f"unpacks to more than {total} bytes, {allowed} allowed")
                yield _member(repo_name, name, size, why, read, limits)
        except (_BombError, StarloomError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - the file is steady: whatever a decoder raises, the bytes are at fault
            yield Refusal(repo_name, file_name, "damaged_archive", _why(error))


class _MemberError(Exception):
    """One member cannot be read, those after it can."""


def _member(
    repo_name: str, name: str, size: int, why: str | None, read: Callable[[int], bytes], limits: Limits
) -> Item | Refusal:
    path, shown = safe_member(name), printable(name)
    if path is None:
        return Refusal(repo_name, shown, "path_outside_archive")
    if not is_utf8(name):
        return Refusal(repo_name, shown, "path_not_utf8")
    if why:
        return Refusal(repo_name, path, why)
    limit = limits.of(path)
    if size > limit:
        return Refusal(repo_name, path, "too_large", f"{size} bytes, limit {limit}")
    try:
        content = read(limit + 1)
    except _MemberError as error:
        return Refusal(repo_name, path, "damaged_archive", str(error))
    if len(content) > limit:
        return Refusal(repo_name, path, "too_large", f"more than {limit} bytes")
    return Item(repo_name, path, content, source="archive")


_Entry = tuple[str, int, str | None, Callable[[int], bytes]]  # name, size, why it is no readable file, its content


def _zipped(raw: IO[bytes]) -> Iterator[_Entry]:
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                link = (info.external_attr >> 16) & 0o170000 == 0o120000
                why = "encrypted" if info.flag_bits & 1 else "symlink" if link else None
                yield info.filename, info.file_size, why, partial(_unzipped, archive, info)


def _unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    try:
        with archive.open(info) as file:
            return file.read(limit)
    except (StarloomError, MemoryError):
        raise
    except Exception as error:
        raise _MemberError(_why(error)) from error


def _tarred(raw: IO[bytes], location: str) -> Iterator[_Entry]:
    with tarfile.open(fileobj=_decompressed(raw, location), mode="r|*") as archive:
        while (member := archive.next()) is not None:
            if not member.isdir():
                why = None if member.isreg() else "symlink" if member.issym() else "not_a_regular_file"
                yield member.name, member.size, why, partial(_untarred, archive, member)
            # the list of members would grow with the archive
            archive.members = []  # type: ignore[attr-defined]


def _untarred(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    """At most `limit` bytes, whatever size the member declares."""
    stream = archive.extractfile(member)
    content = stream.read(limit) if stream is not None else b""
    if len(content) < min(member.size, limit):
        raise EOFError(f"{member.name} ends early")
    return content


def _decompressed(raw: IO[bytes], location: str) -> Any:
    if location.lower().endswith((".zst", ".tzst")):
        import pyarrow as pa

        return pa.CompressedInputStream(raw, "zstd")
    return raw


def _stem(file_name: str) -> str:
    suffix = max((suffix for suffix in SUFFIXES if file_name.lower().endswith(suffix)), key=len, default="")
    return file_name[: len(file_name) - len(suffix)]


def _why(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)
