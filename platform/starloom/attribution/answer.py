"""An opened index, and what it answers about a document: spans with their files, lines and licences, ready for JSON."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args

import numpy as np

from starloom.attribution import kernel
from starloom.attribution.lexing import known_language
from starloom.attribution.lookup import (
    KINDS,
    MINIMUM_CHARACTERS,
    Budget,
    Kind,
    Passage,
    Place,
    largest_spans,
    look_up,
    merged_spans,
)
from starloom.attribution.segment import Segment
from starloom.errors import UserError
from starloom.kinds import Attribution
from starloom.opt_outs import entry_for, watched

Offsets = Literal["utf-16", "utf-8", "code-points"]
MOST_CHARACTERS: Final = 100_000
NO_LICENSE: Final = "none"
BUDGET: Final = Budget()


@dataclass(frozen=True)
class Query:
    """What is asked about a document."""

    document: str
    language: str | None = None
    minimum_characters: int = MINIMUM_CHARACTERS
    kinds: tuple[Kind, ...] = KINDS
    files_per_match: int = 10
    offsets: Offsets = "utf-16"
    ignore: tuple[str, ...] = ()  # owners and repositories whose files are no answer
    excerpt: bool = False  # with each file its own lines there, and some around them

    @classmethod
    def of(cls, values: Any) -> "Query":
        """The query of a request's body; half of a surrogate pair, which an editor's window may end in, is text.

        Raises:
            UserError: the body is no object, holds a key that is not known, or a value that cannot be.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("document"), str):
            raise UserError("document: give the text to look up")
        unknown = [key for key in values if key not in cls.__dataclass_fields__]
        if unknown:
            raise UserError(f"{unknown[0]!r} is not known; known keys: {', '.join(cls.__dataclass_fields__)}")
        given = {key: value for key, value in values.items() if value is not None}
        query = cls(**{**given, **{key: _texts(given, key) for key in ("kinds", "ignore") if key in given}})
        if len(query.document) > MOST_CHARACTERS:
            raise UserError(f"document: {len(query.document):,} characters are more than {MOST_CHARACTERS:,}")
        for key, least, most in (("minimum_characters", 24, MOST_CHARACTERS), ("files_per_match", 0, 100)):
            value = getattr(query, key)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UserError(f"{key}: {value!r} is not a number from {least:,} to {most:,}")
        if not isinstance(query.excerpt, bool):
            raise UserError(f"excerpt: {query.excerpt!r} is neither true nor false")
        if query.offsets not in get_args(Offsets):
            raise UserError(f"offsets: {query.offsets!r} is not one of {', '.join(get_args(Offsets))}")
        if not query.kinds or set(query.kinds) - set(KINDS):
            raise UserError(f"kinds: {list(query.kinds)} are not of {', '.join(KINDS)}")
        if query.language is not None and not (isinstance(query.language, str) and known_language(query.language)):
            raise UserError(f"language: it is not known how {query.language!r} writes comments; leave it out")
        return query


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = values[key]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{key}: give a list of texts")
    return tuple(value)


@dataclass(frozen=True)
class Hit:
    """A span of the document in bytes of its UTF-8, and what holds it: some of the files, ready for JSON."""

    start: int
    end: int
    kind: Kind
    count: int
    licenses: Mapping[str, int]
    files: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Hits:
    """What segments know of a document. Not `complete`: the budget ended the work."""

    found: tuple[Hit, ...]
    complete: bool


@dataclass
class Index:
    """Segments opened for look-ups."""

    fingerprint: str
    corpus: str  # the fingerprint of what was indexed
    segments: tuple[Segment, ...]
    withdrawn: Callable[[], frozenset[str]] = frozenset  # names in lower case that are in no answer

    @classmethod
    def open(cls, view: Attribution, first: int = 0, stop: int | None = None) -> "Index":
        """Segments `first` up to `stop` of an index; raises `RunError` where a file is not what was written."""
        root = view.artifact.folder.rsplit("/", 2)[0]
        segments = tuple(Segment(folder) for folder in view.folders(first, stop))
        return cls(view.artifact.fingerprint, view.corpus, segments, watched(root))

    def ask(self, query: Query, budget: Budget = BUDGET) -> dict[str, Any]:
        """The answer as JSON-able values; offsets are in the units that the query names."""
        return answer_of(query, self.find(query, budget), self.fingerprint)

    def find(self, query: Query, budget: Budget = BUDGET) -> Hits:
        """The matches, in bytes."""
        document = query.document.encode("utf-8", "surrogatepass")
        left_out = self.withdrawn() | {name.lower() for name in query.ignore}
        found = look_up(
            self.segments,
            document,
            language=query.language,
            minimum_characters=query.minimum_characters,
            kinds=query.kinds,
            budget=budget,
            hidden=[_named(segment, left_out) for segment in self.segments],
        )
        return Hits(tuple(self._match(match, query) for match in found.matches), found.complete)

    def _match(self, match: Passage, query: Query) -> Hit:
        licenses: Counter[str] = Counter()
        for place in match.places:
            named = self.segments[place.segment].licenses[place.file]
            licenses.update(named or [NO_LICENSE])
        files = tuple(self._file(place, query.excerpt) for place in match.places[: query.files_per_match])
        return Hit(match.start, match.end, match.kind, len(match.places), licenses, files)

    def _file(self, place: Place, excerpt: bool) -> dict[str, Any]:
        segment = self.segments[place.segment]
        row = segment.files.slice(place.file, 1).to_pylist()[0]
        return {
            "repository": row["repo_name"],
            "path": row["path"],
            "lines": list(segment.lines(place.file, place.first, place.stop)),
            "commit": row["commit"],
            "language": row["language"],
            "licenses": row["licenses"] or [],
            "kind": row["kind"],
            "id": row["id"],
            **({"excerpt": segment.excerpt(place.file, place.first, place.stop)} if excerpt else {}),
        }


def joined(parts: Sequence[Hits], files_per_match: int) -> Hits:
    """What several indexes know of one document, as one index of all their segments would tell it."""
    places: dict[tuple[int, int, Kind], list[Hit]] = {}
    for match in (match for part in parts for match in part.found):
        places.setdefault((match.start, match.end, match.kind), []).append(match)
    found = []
    for start, end, kind in largest_spans(places):
        same = places[start, end, kind]
        licenses: Counter[str] = Counter()
        for one in same:
            licenses.update(one.licenses)
        files = tuple(file for one in same for file in one.files)[:files_per_match]
        found.append(Hit(start, end, kind, sum(one.count for one in same), licenses, files))
    return Hits(tuple(found), all(part.complete for part in parts))


def answer_of(query: Query, matches: Hits, fingerprint: str) -> dict[str, Any]:
    """The answer as JSON-able values; offsets are in the units that the query names."""
    at = _offsets(query.document.encode("utf-8", "surrogatepass"), query.offsets)
    return {
        "spans": [[at(start), at(end)] for start, end in merged_spans(matches.found)],
        "offsets": query.offsets,
        "complete": matches.complete,
        "index": fingerprint,
        "matches": [
            {
                "span": [at(match.start), at(match.end)],
                "kind": match.kind,
                "count": match.count,
                "licenses": dict(sorted(match.licenses.items(), key=lambda entry: (-entry[1], entry[0]))),
                "files": [dict(file) for file in match.files],
            }
            for match in matches.found
        ],
    }


@lru_cache(maxsize=256)
def _named(segment: Segment, names: frozenset[str]) -> np.ndarray:
    """Files of owners or repositories: uint8 [files]."""
    if not names:
        return segment.hidden
    inside = [entry_for(name, names) is not None for name in segment.files["repo_name"].to_pylist()]
    return np.maximum(np.array(inside, np.uint8), segment.hidden)


def _offsets(document: bytes, unit: Offsets) -> Callable[[int], int]:
    if unit == "utf-8":
        return int
    out = np.zeros(len(document) + 1, np.int64)
    if document:
        kernel.unit_offsets(np.frombuffer(document, np.uint8), out, 2 if unit == "utf-16" else 1)
    return lambda at: int(out[at])
