"""How a corpus row becomes a document: text and special tokens, drawn from (seed, id) alone.

Source: StarCoder (Li et al. 2023), section 3.5 and the field notes of its data work: each of repository, file name
and stars stands before a file with probability 0.2, each on its own draw; stars come in buckets. Issues, commits and
notebooks have tokens of their own; a repository's files as one document are StarCoder2's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from pydantic import Field

from starloom import records
from starloom.config import Config
from starloom.draws import draw
from starloom.records import Piece, Special
from starloom.tokenizer import END_OF_TEXT

STAR_BUCKETS = ((0, "0"), (10, "1-10"), (100, "10-100"), (1000, "100-1000"))
REPOSITORY_METADATA_RATE = 0.5


class DocumentConfig(Config):
    """What is a document, and what stands before a file's text."""

    layout: Literal["files", "repositories"] = "files"  # repositories: StarCoder2's, as far as one shard holds them
    metadata_rate: float = Field(0.2, ge=0, le=1)  # of files


REPOSITORY_TOKENS = (Special("<repo_name>"), Special("<file_sep>"))


@dataclass(frozen=True)
class Section:
    """Some of a document's pieces, all of one language."""

    language: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Document:
    """What is encoded as one: `key` decides its place among the others."""

    key: str
    rows: tuple[int, ...]  # numbers of its rows
    sections: tuple[Section, ...]


def documents_of(rows: Sequence[Mapping[str, Any]], seed: int, options: DocumentConfig) -> Iterator[Document]:
    """The documents of a shard's rows, which come repository by repository."""
    names = [(row["repo_name"], options.layout == "repositories" and row.get("kind", "file") == "file") for row in rows]
    for (repo_name, together), group in groupby(range(len(rows)), key=lambda number: names[number]):
        numbers = tuple(group)
        if together:
            sections = _repository([rows[number] for number in numbers], seed)
            yield Document(f"{repo_name}/", numbers, tuple(sections))
            continue
        for number in numbers:
            row = rows[number]
            section = Section(row["language"] or "", tuple(render(row, seed, options)))
            yield Document(f"{repo_name}/{row['path']}", (number,), (section,))


def render(row: Mapping[str, Any], seed: int, options: DocumentConfig) -> list[Piece]:
    """The pieces of one document in order, end-of-text last; strings are encoded as text."""
    kind = row.get("kind", "file")
    metadata = _metadata(row, seed, options) if kind == "file" else []
    pieces = [*metadata, *records.render(kind, row["content"])]
    return [*pieces, Special(END_OF_TEXT)]


def _repository(rows: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Section]:
    """StarCoder2's document of a whole repository: its files in a drawn order, half of the time with their names.

    The tokenizer must know ``<repo_name>`` and ``<file_sep>``; all rows are of one repository.
    """
    repo_name = rows[0]["repo_name"]
    named = draw(seed, repo_name, "repository metadata") < REPOSITORY_METADATA_RATE
    ordered = sorted(rows, key=lambda row: (draw(seed, f"{repo_name}/{row['path']}", "order"), row["path"]))
    for number, row in enumerate(ordered):
        opening = [*REPOSITORY_TOKENS[:1], repo_name] if named and number == 0 else []
        text = f"{row['path']}\n{row['content']}" if named else row["content"]
        closing = [Special(END_OF_TEXT)] if number == len(ordered) - 1 else []
        yield Section(row.get("language") or "", (*opening, REPOSITORY_TOKENS[1], text, *closing))


def star_bucket(stars: int) -> str:
    """StarCoder's five classes of popularity."""
    return next((name for limit, name in STAR_BUCKETS if stars <= limit), "1000+")


def _metadata(row: Mapping[str, Any], seed: int, options: DocumentConfig) -> list[Piece]:
    draws = [draw(seed, row["id"], name) for name in ("repository", "path", "stars")]
    fields: list[Piece] = []
    if draws[0] < options.metadata_rate:
        fields += [Special("<reponame>"), row["repo_name"]]
    if draws[1] < options.metadata_rate:
        fields += [Special("<filename>"), row["path"]]
    if draws[2] < options.metadata_rate and row["stars"] is not None:
        fields += [Special("<gh_stars>"), star_bucket(row["stars"])]
    return [*fields, "\n"] if fields else []
