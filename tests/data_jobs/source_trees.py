"""Small sources of every kind, made on the spot."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pygit2

from data_jobs.sources.entries import Item, LicenseFile, Limits, Refusal, Source, Spill, Unit
from starloom.artifact import ArtifactWriter

LIMITS = Limits()
MIT = """\
MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def program(name: str, lines: int = 12) -> str:
    """A small Python program that differs from every other."""
    body = "\n".join(f"    total += {name}_{n} * {n + 3}  # step {n} of {name}" for n in range(lines))
    return f'def {name}(start):\n    """Sum for {name}."""\n    total = start\n{body}\n    return total\n'


def write_files(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def commit_files(folder: Path, commits: Sequence[tuple[str, Mapping[str, str | bytes]]]) -> Path:
    """A bare repository with these commits, each a message and the files that it changes."""
    repository = pygit2.init_repository(str(folder), bare=True)
    files: dict[str, str | bytes] = {}
    parents: list[Any] = []
    author = pygit2.Signature("A", "a@b.invalid", 1_600_000_000, 0)
    for message, changes in commits:
        files |= changes
        tree = _tree(repository, files)
        parents = [repository.create_commit("refs/heads/main", author, author, message, tree, parents)]
    repository.set_head("refs/heads/main")
    return folder


def _tree(repository: Any, files: Mapping[str, str | bytes]) -> Any:
    builder = repository.TreeBuilder()
    below: dict[str, dict[str, str | bytes]] = {}
    for path, content in files.items():
        top, separator, rest = path.partition("/")
        if separator:
            below.setdefault(top, {})[rest] = content
        else:
            blob = repository.create_blob(content.encode() if isinstance(content, str) else content)
            builder.insert(top, blob, pygit2.enums.FileMode.BLOB)
    for top, inner in below.items():
        builder.insert(top, _tree(repository, inner), pygit2.enums.FileMode.TREE)
    return builder.write()


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    """A tar archive with these members."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    """A zip archive with these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], rows_per_group: int = 2) -> Path:
    """A Parquet file of several row groups."""
    pq.write_table(pa.table(dict(columns)), path, row_group_size=rows_per_group)
    return path


def write_json_lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines, compressed where the name says so; a string is written as it is."""
    text = "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def notebook(*cells: tuple[str, str, str]) -> str:
    """A notebook in nbformat 4 from (type, source, output)."""
    made = []
    for kind, source, output in cells:
        cell: dict[str, Any] = {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}}
        if kind == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [output]}] if output else []
        made.append(cell)
    kernel = {"kernelspec": {"name": "python3", "language": "python"}}
    return json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def event(repo: str, number: int, user: str, body: str, *, comment: int | None = None) -> dict[str, Any]:
    """A GH Archive event: an issue, or a comment on it."""
    issue = {"number": number, "title": f"Title {number}", "body": body, "user": {"login": user}}
    payload: dict[str, Any] = {"action": "opened", "issue": issue}
    if comment is not None:
        issue["body"], issue["user"] = "The opening text of the issue. " * 5, {"login": "opener"}
        at = f"2020-01-01T00:00:{comment:02d}Z"
        payload["comment"] = {"id": comment, "body": body, "user": {"login": user}, "created_at": at}
    return {"type": "IssuesEvent", "repo": {"name": repo}, "payload": payload, "created_at": "2020-01-01T00:00:00Z"}


def units_of(source: Source, folder: Path, state: Any = None, limits: Limits = LIMITS) -> list[Unit]:
    """The units of all places of a source, listed one after the other; what has to be spilled is in the folder."""
    return [unit for unit in listed(source, folder, state, limits) if not isinstance(unit, LicenseFile)]


def listed(source: Source, folder: Path, state: Any = None, limits: Limits = LIMITS) -> Iterator[Unit | LicenseFile]:
    """The units of all places of a source, and the files that tell licences."""
    output = ArtifactWriter(str(folder))
    places = source.places(state)
    spills = [Spill(output, f"spilled-{number}") for number in range(len(places))]
    for place, spill in zip(places, spills, strict=True):
        yield from place.listing(spill, limits)
    yield from source.gathered(spills)


def spill(folder: Path) -> Spill:
    """Where a listing may put what it reads."""
    return Spill(ArtifactWriter(str(folder)), "spilled")


def read_all(source: Source, folder: Path, limits: Limits = LIMITS) -> tuple[dict[str, Item], dict[str, Refusal]]:
    """Everything that a source's units give, by path, and all refusals, by path."""
    items: dict[str, Item] = {}
    refusals: dict[str, Refusal] = {}
    for unit in units_of(source, folder, limits=limits):
        for found in unit.read(limits):
            if isinstance(found, Item):
                items[found.path] = found
            else:
                refusals[found.path] = found
    return items, refusals
