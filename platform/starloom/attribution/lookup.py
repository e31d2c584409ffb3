"""What of a document stands in the corpus: spans, how they agree, and the files that hold them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, get_args

import numpy as np

from starloom.attribution import kernel
from starloom.attribution.lexing import STYLES, keyword_table, style_of
from starloom.attribution.segment import Level, Segment

# byte for byte; but for blanks; but for comments and blanks; but for names as well
Kind = Literal["exact", "white_space", "comments", "renamed"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MINIMUM_CHARACTERS: Final = 50
MINIMUM_SOLID: Final = kernel.SOLID + kernel.SOLID_STRIDE - 1  # bytes that are not blank: every run of them is found
MINIMUM_LEXEMES: Final = kernel.RENAMED + kernel.RENAMED_STRIDE - 1
MINIMUM_DISTINCT: Final = 8  # lexemes: a table of numbers is not a renamed program
LARGEST_DOCUMENT: Final = 1 << 20  # bytes
READ_DEARER: Final = 8  # how many bytes are compared in the time in which one is read as lexemes
# postings of a window: the rare ones of all segments come first, so that what is common takes only what is left
ROUNDS: Final = ((1, 8), (9, 128), (129, 1 << 62))
MOST_MATCHES: Final = 2000  # that are grown for one level


@dataclass(frozen=True)
class Budget:
    """Work that one document may cause on each level; what is left over at the end is not told, that it ended is."""

    verifications: int = 600
    compared_bytes: int = 8 << 20
    postings: int = 60_000

    def fresh(self) -> np.ndarray:
        """What the kernels count down: int64 [3]."""
        return np.array([self.verifications, self.compared_bytes, self.postings], np.int64)


WITHOUT_END: Final = Budget(1 << 40, 1 << 50, 1 << 50)


@dataclass(frozen=True)
class Place:
    """Bytes of a file's text that a span agrees with, in the segment's own text."""

    segment: int
    file: int
    first: int
    stop: int


@dataclass(frozen=True)
class Passage:
    """A span of the document, in its bytes, and every place that was found for it: one a file."""

    start: int
    end: int
    kind: Kind
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Found:
    """An answer. Not `complete`: the budget ended the work, and there may be more spans and more files."""

    matches: tuple[Passage, ...]
    complete: bool

    def spans(self) -> list[tuple[int, int]]:
        """Bytes of the document that any match covers: ascending, merged."""
        return merged_spans(self.matches)


_Filter = Callable[[np.ndarray], np.ndarray]  # of rows that the kernels found


class Spanning(Protocol):
    """Has a span."""

    @property
    def start(self) -> int:
        """Its first byte."""

    @property
    def end(self) -> int:
        """The byte after its last."""


def merged_spans(matches: Iterable[Spanning]) -> list[tuple[int, int]]:
    """What any of the matches, which ascend by their first bytes, covers: ascending, merged."""
    merged: list[tuple[int, int]] = []
    for match in matches:
        if merged and match.start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(match.end, merged[-1][1]))
        else:
            merged.append((match.start, match.end))
    return merged


@dataclass(frozen=True)
class _Row:
    kind: Kind
    start: int
    end: int
    place: Place


def look_up(
    segments: Sequence[Segment],
    document: bytes,
    *,
    language: str | None = None,
    minimum_characters: int = MINIMUM_CHARACTERS,
    kinds: Collection[Kind] = KINDS,
    budget: Budget = Budget(),
    hidden: Sequence[np.ndarray] | None = None,
) -> Found:
    """The spans of UTF-8 text that stand in the segments, ascending.

    A span has at least `minimum_characters` code points, and `MINIMUM_SOLID` bytes that are not blank or, where names
    or comments differ, `MINIMUM_LEXEMES` lexemes. No span lies within another one that agrees as well or better.
    Without a `language` comments are looked for in each way of writing them. `hidden` are files that are left out,
    uint8 [files] for each segment, instead of what the segments themselves hide.
    """
    left_out = [segment.hidden for segment in segments] if hidden is None else list(hidden)
    if len(document) < MINIMUM_SOLID:
        return Found((), complete=True)
    q = np.frombuffer(document, np.uint8)
    points = np.empty(len(q) + 1, np.int64)
    kernel.unit_offsets(q, points, 1)

    def long_enough(found: np.ndarray) -> np.ndarray:
        kept: np.ndarray = found[points[found[:, kernel.B]] - points[found[:, kernel.A]] >= minimum_characters]
        return kept

    rows: list[_Row] = []
    complete = True
    if {"exact", "white_space"} & set(kinds):
        found, ended = _solid(segments, q, budget, left_out, long_enough)
        rows, complete = rows + found, complete and not ended
    if {"comments", "renamed"} & set(kinds):
        found, ended = _renamed(
            segments, q, (style_of(language),) if language else STYLES, budget, left_out, long_enough
        )
        rows, complete = rows + found, complete and not ended
    return Found(tuple(_passages([row for row in rows if row.kind in kinds])), complete)


def _solid(
    segments: Sequence[Segment],
    q: np.ndarray,
    budget: Budget,
    hidden: Sequence[np.ndarray],
    kept: _Filter,
) -> tuple[list[_Row], bool]:
    n = len(q)
    keys, places = np.empty(n, np.uint64), np.empty(n, np.int64)
    context, sides = np.empty(n, np.uint8), np.empty(n, np.uint8)
    room = np.empty(n, np.uint8), np.empty(n, np.int64)
    windows = kernel.solid_windows(q, 0, n, 1, *room, keys, places, context, sides, 0)
    left = budget.fresh()
    searches = [_Search.of(segment.solid, keys[:windows]) for segment in segments]
    heads = [np.full(1 << 12, -1, np.int64) for _ in segments]
    for fewest, most in ROUNDS:
        for number, (segment, search) in enumerate(zip(segments, searches, strict=True)):
            search.count = kernel.match_solid(
                q, places, context, sides, search.first, search.stop, search.order, fewest, most,
                segment.solid.positions, segment.solid.contexts, segment.text, segment.starts, hidden[number],
                MINIMUM_SOLID, left, search.found, heads[number], search.count,
            )  # fmt: skip
    rows = []
    for number, search in enumerate(searches):
        for row in kept(search.found[: search.count]).tolist():
            kind: Kind = "exact" if row[kernel.SAME] else "white_space"
            rows.append(_row(kind, row, number))
    return rows, bool((left < 0).any())


@dataclass
class _Search:
    """A query's windows in one segment: their postings, in the order of how rare they are, and what was found."""

    first: np.ndarray
    stop: np.ndarray
    order: np.ndarray
    found: np.ndarray
    count: int = 0

    @classmethod
    def of(cls, level: Level, keys: np.ndarray, wanted: np.ndarray | None = None) -> "_Search":
        first, stop = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
        order = kernel.ranked(keys, len(keys), level.bits, level.directory, level.tags, first, stop)
        if wanted is not None:
            order = order[wanted[order]]
        return cls(first, stop, order, np.empty((MOST_MATCHES, kernel.WIDTH), np.int64))


@dataclass
class _Lexemes:
    """A query's lexemes under one way of writing comments."""

    values: np.ndarray
    at: np.ndarray
    ends: np.ndarray
    count: int
    keys: np.ndarray  # of the windows; window i begins with lexeme i

    @classmethod
    def of(cls, q: np.ndarray, style: int) -> "_Lexemes":
        n = len(q)
        values, at, ends = np.empty(n, np.uint64), np.empty(n, np.int64), np.empty(n, np.int64)
        count = kernel.lexemes(q, 0, n, style, keyword_table(), values, at, ends)
        keys, places = np.empty(count, np.uint64), np.empty(count, np.int64)
        windows = kernel.renamed_windows(values, count, 1, at, keys, places, 0) if count >= MINIMUM_LEXEMES else 0
        return cls(values, at, ends, count, keys[:windows])

    def marks(self) -> np.ndarray:
        """A number for each window that tells its key and its place: uint64 [windows]."""
        found: np.ndarray = self.keys ^ (self.at[: len(self.keys)].astype(np.uint64) * kernel.BASE)
        return found


def _renamed(
    segments: Sequence[Segment],
    q: np.ndarray,
    styles: Sequence[int],
    budget: Budget,
    hidden: Sequence[np.ndarray],
    kept: _Filter,
) -> tuple[list[_Row], bool]:
    left = budget.fresh() // (1, READ_DEARER, 1)
    texts: list[tuple[_Lexemes, list[_Search], np.ndarray]] = []
    seen = np.empty(0, np.uint64)
    for style in styles:
        text = _Lexemes.of(q, style)
        marks = text.marks()
        wanted = ~np.isin(marks, seen)  # a window that another style has as well is looked up once
        seen = np.concatenate([seen, marks])
        if wanted.any():
            searches = [_Search.of(segment.renamed, text.keys, wanted) for segment in segments]
            texts.append((text, searches, np.empty((len(segments), MOST_MATCHES, 2), np.int64)))
    for fewest, most in ROUNDS:
        for text, searches, lines in texts:
            for number, (segment, search) in enumerate(zip(segments, searches, strict=True)):
                search.count = kernel.match_renamed(
                    text.values, text.at, text.ends, text.count, search.first, search.stop, search.order, fewest, most,
                    segment.renamed.positions, segment.text, segment.starts, segment.styles, keyword_table(),
                    hidden[number], MINIMUM_LEXEMES, left, search.found, lines[number], search.count,
                )  # fmt: skip
    rows = []
    for text, searches, _ in texts:
        for number, search in enumerate(searches):
            for row in kept(search.found[: search.count]).tolist():
                first, stop = np.searchsorted(text.at[: text.count], (row[kernel.A], row[kernel.B]))
                if len(np.unique(text.values[first:stop])) >= MINIMUM_DISTINCT:
                    rows.append(_row("renamed" if row[kernel.SAME] else "comments", row, number))
    return rows, bool((left < 0).any())


def _row(kind: Kind, row: list[int], segment: int) -> _Row:
    place = Place(segment, row[kernel.FILE], row[kernel.C], row[kernel.D])
    return _Row(kind, row[kernel.A], row[kernel.B], place)


def _passages(rows: Sequence[_Row]) -> Iterator[Passage]:
    """Rows by span."""
    places: dict[tuple[int, int, Kind], dict[tuple[int, int], Place]] = {}
    for row in rows:
        by_file = places.setdefault((row.start, row.end, row.kind), {})
        by_file.setdefault((row.place.segment, row.place.file), row.place)
    for a, b, kind in largest_spans(places):
        by_file = places[a, b, kind]
        yield Passage(a, b, kind, tuple(by_file[key] for key in sorted(by_file)))


def largest_spans(found: Collection[tuple[int, int, Kind]]) -> list[tuple[int, int, Kind]]:
    """The spans that lie within no other one of the same kind or a better one, ascending."""
    kept: list[tuple[int, int, Kind]] = []
    for kind in KINDS:  # the best first: only what agrees as well can stand in for a span
        spans = sorted({(a, b) for a, b, k in found if k == kind}, key=lambda span: (span[0], -span[1]))
        better = [(a, b) for a, b, _ in kept]
        reached = -1
        for a, b in spans:
            if b <= reached or any(first <= a and b <= stop for first, stop in better):
                continue
            reached = b
            kept.append((a, b, kind))
    return sorted(kept, key=lambda span: (span[0], span[1], KINDS.index(span[2])))
