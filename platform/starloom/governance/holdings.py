"""Where the text of some repositories stands below a run's root: rows, artifacts that hold it, models that saw it."""

import html
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from starloom import parquet, storage
from starloom.artifact import MANIFEST, Artifact, Manifest, manifests, read_manifest, written_again
from starloom.kinds import (
    Attribution,
    Collected,
    Conversations,
    Corpus,
    Decisions,
    Model,
    Tokenizer,
    Tokens,
    corpora_of,
    data_file,
)
from starloom.opt_outs import FOLDER, entry_for
from starloom.schema import CORPUS

HOLDING: Final = (Corpus.kind, Tokens.kind, Attribution.kind, Conversations.kind)  # the text of rows itself
# no line of it: names, places and hashes, or what was learned; every other kind, plug-ins' too, may quote some
WITHOUT_TEXT: Final = (Decisions.kind, Tokenizer.kind, Model.kind, "signatures")
LEAST_LINE: Final = 24  # bytes that are not blank, of a line that says whose text it is
_NAMES: Final = ["repo_name", "path", "id"]


@dataclass(frozen=True, order=True)
class File:
    """A row by its name."""

    repository: str
    path: str
    id: str


@dataclass(frozen=True)
class Holding:
    """A folder of an artifact, and what it is to the names that were looked for."""

    folder: str
    step: str
    kind: str
    unfinished: bool = False


def artifacts_below(root: str) -> Iterator[tuple[str, Manifest]]:
    """Folder and manifest of every finished artifact, step by step; their files are not looked at."""
    for step in storage.folders(root):
        if step != FOLDER and not step.startswith("."):
            for folder in manifests(root, step):
                yield folder, read_manifest(folder)


def files_of(artifact: Artifact, names: Collection[str]) -> Iterator[tuple[File, str]]:
    """The rows of a corpus, collected or curated, that fall under the names, with their text."""
    for shard in sorted(name for name in artifact.manifest.files if name.startswith(data_file(""))):
        places = _places(artifact.read_table(shard, ["repo_name"]), names)
        if places:
            table = artifact.read_table(shard, [*_NAMES, "content"]).take(pa.array(places))
            for row in table.to_pylist():
                yield File(row["repo_name"], row["path"], row["id"]), row["content"]


def names_of(artifact: Artifact, names: Collection[str] | None = None) -> Iterator[File]:
    """The rows of a corpus without their text: those that fall under the names, or all."""
    for shard in sorted(name for name in artifact.manifest.files if name.startswith(data_file(""))):
        table = artifact.read_table(shard, _NAMES)
        for repository, path, identity in zip(*(table[name].to_pylist() for name in _NAMES), strict=True):
            if names is None or entry_for(repository, names):
                yield File(repository, path, identity)


def _places(table: pa.Table, names: Collection[str]) -> list[int]:
    return [place for place, name in enumerate(table["repo_name"].to_pylist()) if entry_for(name, names)]


def holding(root: str, names: Collection[str], kinds_of_steps: dict[str, str]) -> list[Holding]:
    """The folders whose files hold text of the names: of corpora that have their rows, and of what was made from them.

    `kinds_of_steps` tells what a step makes: an unfinished one says nothing of itself and is taken to hold it. What was
    made from a corpus of which no trace is left is taken to hold it too.
    """
    every = list(artifacts_below(root))
    corpora = {manifest.fingerprint: folder for folder, manifest in every if manifest.kind == Corpus.kind}
    for folder, manifest in every:  # a corpus of another root may be among the inputs
        for entry in manifest.inputs:
            place = Artifact(folder, manifest).place_of(entry) if entry.kind == Corpus.kind else None
            if place is not None:
                corpora.setdefault(entry.fingerprint, place)
    known = set(corpora)
    guilty = {f for f, place in corpora.items() if any(names_of(Artifact(place, read_manifest(place)), names))}
    found = []
    for folder, manifest in every:
        if manifest.kind not in HOLDING:
            continue
        artifact = Artifact(folder, manifest)
        own = {manifest.fingerprint} if manifest.kind == Corpus.kind else corpora_of(artifact)
        traceless = not own and manifest.kind != Conversations.kind  # those may come from outside
        if own & guilty or own - known or traceless:
            found.append(Holding(folder, manifest.step, manifest.kind))
    for step, kind in kinds_of_steps.items():
        if kind in HOLDING:
            found += [Holding(folder, step, kind, unfinished=True) for folder in unfinished(root, step)]
    return found


def unfinished(root: str, step: str) -> list[str]:
    """The folders of a step that have no manifest."""
    base = storage.join(root, step)
    folders = (storage.join(base, name) for name in storage.folders(base))
    return [folder for folder in folders if not storage.exists(storage.join(folder, MANIFEST))]


def made_from(root: str, kind: str, corpora: Collection[str]) -> list[tuple[str, Manifest]]:
    """The artifacts of a kind that were made from some of the corpora."""
    every = [(folder, manifest) for folder, manifest in artifacts_below(root) if manifest.kind == kind]
    return [(folder, manifest) for folder, manifest in every if corpora_of(Artifact(folder, manifest)) & set(corpora)]


def telling_lines(texts: Sequence[str]) -> set[str]:
    """The lines that are long enough to say whose they are, without blanks at their ends."""
    stripped = (line.strip() for text in texts for line in text.splitlines())
    return {line for line in stripped if len("".join(line.split()).encode()) >= LEAST_LINE}


def quoting(root: str, lines: Collection[str]) -> list[Holding]:
    """The artifacts that quote one of the lines."""
    found = []
    for folder, manifest in artifacts_below(root):
        searched = manifest.kind not in (*HOLDING, *WITHOUT_TEXT, Collected.kind)
        if searched and any(_quotes(Artifact(folder, manifest), name, lines) for name in manifest.files):
            found.append(Holding(folder, manifest.step, manifest.kind))
    return found


def quotes(data: bytes, name: str, lines: Collection[str]) -> bool:
    """Whether a file says one of the lines: in a string of its JSON or Parquet, in its HTML's text, or as it is."""
    text = data.decode("utf-8", "replace")
    if name.endswith(".parquet"):
        strings = list(_strings(parquet.read_columns(io.BytesIO(data)).to_pylist()))
    elif name.endswith((".json", ".jsonl")):
        values = text.split("\n") if name.endswith(".jsonl") else [text]
        strings = [string for value in values if value.strip() for string in _strings(json.loads(value))]
    else:
        strings = [html.unescape(text) if name.endswith(".html") else text]
    return any(line.strip() in lines for string in strings for line in string.splitlines())


def _quotes(artifact: Artifact, name: str, lines: Collection[str]) -> bool:
    return quotes(storage.read_bytes(artifact.path(name)), name, lines)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, held in value.items():
            yield key
            yield from _strings(held)
    elif isinstance(value, list):
        for held in value:
            yield from _strings(held)


def blank(root: str, step: str, names: Collection[str]) -> int:
    """Write the shards of a step's collected rows again without the text of the names; returns how many rows it took.

    The rows stay where they are, so that no decision about another one moves; `data_jobs.collect` writes the same.
    Killed at any moment, it goes on where it is called again.
    """
    base = storage.join(root, step)
    taken = 0
    for folder in (storage.join(base, name) for name in storage.folders(base)):
        touched = []
        for name, _ in storage.files_below(storage.join(folder, data_file("").rstrip("/"))):
            count = _blank_shard(storage.join(folder, data_file(name)), names)
            if count is not None:
                touched.append(data_file(name))
                taken += count
        if touched and storage.exists(storage.join(folder, MANIFEST)):
            written_again(folder, touched)
    return taken


def _blank_shard(location: str, names: Collection[str]) -> int | None:
    """How many texts were taken out; None where no row falls under the names."""
    with storage.open_file(location) as file:
        places = _places(parquet.read_columns(file, ["repo_name"]), names)
    if not places:
        return None
    with storage.open_file(location) as file:
        table = parquet.read_columns(file)
    texts = table["content"].to_pylist()
    held = [place for place in places if texts[place]]
    for place in held:
        texts[place] = ""
    if held:
        column = table.schema.get_field_index("content")
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.array(texts, field.type))
        with storage.atomic_write(location) as file:
            pq.write_table(table.combine_chunks().cast(CORPUS), file, compression="zstd", row_group_size=1000)
    return len(held)
