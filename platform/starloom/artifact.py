"""Artifacts: what a step leaves behind. One exists only when its manifest does, and the manifest is written last."""

import hashlib
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from starloom import digests, fetched, filetable, parquet, storage
from starloom.config import Config
from starloom.errors import UserError
from starloom.filetable import FileEntry

MANIFEST = "manifest.json"
LOGS = "logs/"  # what differs between two equal runs (timings, profiles); the manifest leaves it out
FINGERPRINT_DIGITS = 16
MERGED_GROUP_ROWS = 50_000


class InputEntry(Config):
    """An artifact that the step read: ``location`` is ``STEP/FINGERPRINT`` below the root, or a full path."""

    step: str
    kind: str
    fingerprint: str
    location: str


class Counts(Config):
    """Rows that went in, came out, and were dropped by reason."""

    rows_in: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = {}


class Story(Config):
    """When, where and from which commit something was made, and what people call it; no part of what it is."""

    finished: str = ""  # UTC
    host: str = ""
    commit: str = ""  # of the recipe's folder, with "-dirty" behind where files had changed since
    labels: dict[str, str] = {}


class Manifest(Config):
    """What was done, from what, and what came out."""

    format: int = 1
    step: str
    kind: str
    fingerprint: str
    provenance: dict[str, Any]  # what the fingerprint is the hash of
    config: dict[str, Any]  # every setting, with defaults, runtime ones too
    inputs: tuple[InputEntry, ...]
    counts: Counts
    details: dict[str, Any]
    bytes: int
    seconds: float
    packages: dict[str, str]
    story: Story = Story()
    files: Mapping[str, FileEntry]  # those of a large artifact are in a table of their own (starloom.filetable)


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint_of(identity: dict[str, Any]) -> str:
    """The first 16 hex digits of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def manifest_bytes(manifest: Manifest, table: FileEntry | None = None) -> bytes:
    """The manifest as it is stored: readable JSON and a checksum over it, so that an edit by hand is noticed.

    With a `table`, which is the entry of `filetable.FILES`, the files themselves are left to it.
    """
    body = manifest.model_dump(mode="json", exclude={"files"})
    if table is None:
        body["files"] = {name: entry.model_dump() for name, entry in manifest.files.items()}
    else:
        body["files"], body["files_table"] = {}, table.model_dump()
    checksum = hashlib.sha256(canonical_json(body).encode()).hexdigest()
    return (json.dumps({**body, "checksum": checksum}, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: str) -> Manifest:
    """Read and check ``folder/manifest.json``.

    Raises:
        UserError: when it is missing, is not JSON, or was changed after it was written.
    """
    location = storage.join(folder, MANIFEST)
    try:
        body = json.loads(storage.read_bytes(location))
        checksum = body.pop("checksum")
    except FileNotFoundError:
        raise UserError(f"{folder}: is not a finished artifact (it has no {MANIFEST})") from None
    except (ValueError, KeyError, AttributeError):
        raise UserError(_tampered(location)) from None
    if hashlib.sha256(canonical_json(body).encode()).hexdigest() != checksum:
        raise UserError(_tampered(location))
    table = body.pop("files_table", None)
    manifest = Manifest.model_validate(body)
    if table is None:
        return manifest
    content = storage.read_bytes(storage.join(folder, filetable.FILES))
    if hashlib.sha256(content).hexdigest() != table["sha256"]:
        raise UserError(_tampered(storage.join(folder, filetable.FILES)))
    return manifest.model_copy(update={"files": filetable.table_of(content)})


def _tampered(location: str) -> str:
    return f"{location}: was changed after it was written; remove that folder and run again to make it anew"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, read-only. Picklable: pass it to Ray tasks."""

    folder: str
    manifest: Manifest

    @classmethod
    def open(cls, folder: str) -> "Artifact":
        """Open a finished artifact and check its manifest and the sizes of its files (not their checksums).

        Raises:
            UserError: when it is unfinished, edited, or lacks a file.
        """
        folder = storage.normalize(folder)
        manifest = read_manifest(folder)
        present = storage.sizes_below(folder)
        for name, size in filetable.sizes_of(manifest.files).items():
            if present.get(name) != size:
                found = "is missing" if name not in present else f"has {present[name]} bytes, not {size}"
                raise UserError(f"{folder}: {name} {found}; remove that folder and run again to make it anew")
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        """The step's name."""
        return self.manifest.step

    @property
    def kind(self) -> str:
        """What it holds: ``collected``, ``decisions``, ``corpus``, ``tokenizer``, ``tokens``, ``model``, ..."""
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        """16 hex digits."""
        return self.manifest.fingerprint

    def path(self, relative: str) -> str:
        """The path or URL of a file in it."""
        return storage.join(self.folder, relative)

    def place_of(self, entry: InputEntry) -> str | None:
        """The folder of one of its inputs; None where that is gone."""
        root = self.folder.rsplit("/", 2)[0]
        place = entry.location if entry.location.count("/") > 1 else storage.join(root, entry.location)
        return place if storage.exists(storage.join(place, MANIFEST)) else None

    def files(self, prefix: str = "") -> list[str]:
        """The relative names that begin with `prefix`, sorted."""
        return sorted(name for name in self.manifest.files if name.startswith(prefix))

    def has(self, relative: str) -> bool:
        """Whether this file is part of it."""
        return relative in self.manifest.files

    def open_file(self, relative: str, mode: str = "rb") -> IO[Any]:
        """Open one of its files for reading."""
        return storage.open_file(self.path(relative), mode)

    def read_text(self, relative: str) -> str:
        """A whole file as UTF-8."""
        return storage.read_bytes(self.path(relative)).decode()

    def read_json(self, relative: str) -> Any:
        """A whole JSON file."""
        return json.loads(storage.read_bytes(self.path(relative)))

    def read_table(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns."""
        with self.open_file(relative) as file:
            return parquet.read_columns(file, columns)

    def tables(self, relatives: Iterable[str]) -> Iterator[pa.Table]:
        """The rows of Parquet files, some thousands at a time."""
        for relative in relatives:
            yield from _table_parts(self.path(relative))

    def local(self, relative: str = "") -> Path:
        """A file or folder of it as a local path; fetched once when the artifact is remote."""
        return fetched.local_copy(self.path(relative) if relative else self.folder)


@dataclass(frozen=True)
class ArtifactWriter:
    """The folder that a step writes. Picklable: Ray tasks write their shards through it."""

    folder: str

    def path(self, relative: str) -> str:
        """The path or URL that a file will have."""
        return storage.join(self.folder, relative)

    def exists(self, relative: str) -> bool:
        """Whether an earlier attempt has finished this file: skip its work."""
        return storage.exists(self.path(relative))

    @contextmanager
    def create(self, relative: str, mode: str = "wb") -> Iterator[IO[Any]]:
        """Write a file that exists only when it is complete."""
        location = self.path(relative)
        with storage.atomic_write(location, mode) as file:
            hashing = digests.HashingFile(file)
            yield hashing  # type: ignore[misc]
        digest = hashing.digest()
        if digest is not None:
            digests.remember({location: digest})

    def write_text(self, relative: str, text: str) -> None:
        """A UTF-8 file."""
        with self.create(relative) as file:
            file.write(text.encode())

    def write_json(self, relative: str, value: Any) -> None:
        """A readable JSON file with sorted keys."""
        self.write_text(relative, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def write_table(self, relative: str, table: pa.Table, *, row_group_rows: int = 10_000) -> None:
        """A zstd Parquet file whose bytes depend on the table alone."""
        with self.create(relative) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=row_group_rows)

    def write_tables(self, relative: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """The rows of many tables as one zstd Parquet file, held in memory a row group at a time."""
        with self.create(relative) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            held: list[pa.Table] = []
            for table in tables:
                held.append(table.cast(schema))
                if sum(part.num_rows for part in held) >= MERGED_GROUP_ROWS:
                    writer.write_table(pa.concat_tables(held))
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held))

    def tables(self, relatives: Iterable[str]) -> Iterator[pa.Table]:
        """The rows of Parquet files that this step has written, some thousands at a time."""
        for relative in relatives:
            yield from _table_parts(self.path(relative))

    def open_file(self, relative: str, mode: str = "rb") -> IO[Any]:
        """Open a file that an earlier attempt or another task of this step has written."""
        return storage.open_file(self.path(relative), mode)

    def read_table(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file that an earlier attempt or another task of this step has written, or some of its columns."""
        with self.open_file(relative) as file:
            return parquet.read_columns(file, columns)

    def rows(self, relative: str) -> int:
        """The number of rows of such a Parquet file, from its footer alone."""
        with self.open_file(relative) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def read_json(self, relative: str) -> Any:
        """A JSON file written by an earlier attempt or another task of this step."""
        return json.loads(storage.read_bytes(self.path(relative)))

    def remove(self, relative: str) -> None:
        """Remove a file or folder of this unfinished artifact; nothing happens when it is not there."""
        storage.remove_below(self.path(relative))

    def local_folder(self, relative: str) -> Path:
        """A real folder for libraries that write files themselves; with a remote root follow it by `publish`.

        With a remote root it starts with what has been published before.
        """
        if not storage.is_remote(self.folder):
            folder = Path(self.path(relative))
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        folder = self.staging() / relative
        if not folder.exists():
            folder.mkdir(parents=True)
            storage.download(self.path(relative), folder)
        return folder

    def publish(self, relative: str) -> None:
        """Upload what `local_folder` holds; on a local root it is in place already."""
        if storage.is_remote(self.folder):
            storage.upload(self.staging() / relative, self.path(relative))

    def staging(self) -> Path:
        """The folder of this machine's own behind `local_folder`, where the root is remote."""
        digest = hashlib.sha256(self.folder.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"starloom-{os.getuid()}" / digest

    def finish(self, manifest: Manifest) -> Artifact:
        """Write the manifest, which makes the artifact exist."""
        if storage.is_remote(self.folder):
            shutil.rmtree(self.staging(), ignore_errors=True)
        table = None
        if len(manifest.files) > filetable.MOST_IN_MANIFEST:
            content = filetable.table_bytes(manifest.files)
            with self.create(filetable.FILES) as file:
                file.write(content)
            table = FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        with self.create(MANIFEST) as file:
            file.write(manifest_bytes(manifest, table))
        return Artifact(self.folder, manifest)

    def inventory(self) -> dict[str, FileEntry]:
        """Size and checksum of every file that belongs to the artifact; read again only where nobody told it."""
        entries = {}
        for name, size in storage.files_below(self.folder):
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name in (MANIFEST, filetable.FILES) or name.startswith(LOGS) or hidden:
                continue
            digest = digests.known(self.path(name))
            told = digest is not None and digest.bytes == size
            checksum = digest.sha256 if digest and told else storage.checksum(self.path(name))
            entries[name] = FileEntry(bytes=size, sha256=checksum)
        digests.collected()  # they are in the manifest from here on
        return entries


def _table_parts(url: str) -> Iterator[pa.Table]:
    with storage.open_file(url) as file:
        for batch in parquet.record_batches(file):
            yield pa.Table.from_batches([batch])


def written_again(folder: str, names: Sequence[str]) -> None:
    """Tell a finished artifact's manifest that some of its files were written again; the fingerprint stays."""
    manifest = read_manifest(folder)
    files = dict(manifest.files)
    for name in names:
        location = storage.join(folder, name)
        files[name] = FileEntry(bytes=storage.size_of(location), sha256=storage.checksum(location))
    if files != dict(manifest.files):
        size = sum(entry.bytes for entry in files.values())
        ArtifactWriter(folder).finish(manifest.model_copy(update={"files": files, "bytes": size}))


def finished(root: str, step: str) -> list[Artifact]:
    """The finished artifacts of a step below a root, oldest first (by the time of their manifests)."""
    return [Artifact.open(folder) for folder in manifests(root, step)]


def manifests(root: str, step: str) -> list[str]:
    """The folders of a step's finished artifacts below a root, oldest first; nothing in them is checked."""
    return sorted(_done(root, step), key=lambda folder: (_written(folder), folder))


def newest(root: str, kind: str) -> Artifact | None:
    """The artifact of a kind that was finished last below a root, whichever step made it."""
    every = [folder for step in storage.folders(root) for folder in _done(root, step)]
    for folder in sorted(every, key=_written, reverse=True):
        if read_manifest(folder).kind == kind:
            return Artifact.open(folder)
    return None


def _done(root: str, step: str) -> list[str]:
    base = storage.join(storage.normalize(root), step)
    folders = [storage.join(base, fingerprint) for fingerprint in storage.folders(base)]
    return [folder for folder in folders if storage.exists(storage.join(folder, MANIFEST))]


def _written(folder: str) -> float:
    return storage.modified(storage.join(folder, MANIFEST))


def find(root: str, need: str) -> Artifact:
    """The artifact that an entry of ``needs`` means.

    ``STEP`` is the newest finished one of that step, ``STEP/FINGERPRINT`` an exact one below the root, and a path or
    URL to a folder with a manifest is that artifact, wherever it is.

    Raises:
        UserError: there is no such artifact.
    """
    root = storage.normalize(root)
    if "/" not in need:
        done = finished(root, need)
        if not done:
            raise UserError(
                f"needs = {need!r}: no finished artifact in {storage.join(root, need)}; run that step first"
            )
        return done[-1]
    below = storage.join(root, need)
    if not need.startswith("/") and "://" not in need and storage.exists(below):
        return Artifact.open(below)
    return Artifact.open(need)


def location_below(root: str, artifact: Artifact) -> str:
    """``STEP/FINGERPRINT`` when the artifact is below the root (so that a root can be moved), else its full path."""
    prefix = storage.normalize(root) + "/"
    if artifact.folder.startswith(prefix):
        return posixpath.normpath(artifact.folder.removeprefix(prefix))
    return artifact.folder
