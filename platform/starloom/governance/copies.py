"""Whose text it still is: files that stay and hold what was taken out, and lines that others have as well."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from starloom.attribution.answer import Index
from starloom.attribution.lookup import MINIMUM_SOLID, look_up
from starloom.governance.holdings import File

SHARE: Final = 0.8  # of a file's lines, verbatim: what has as many is a copy
PIECE: Final = 50_000  # bytes looked up at once


def copies_of(files: Mapping[File, str], index: Index) -> list[dict[str, Any]]:
    """Files of the index that hold at least `SHARE` of the lines of a file that is gone, each with its share."""
    found = []
    for file, text in sorted(files.items()):
        for (segment, number), share in sorted(_shares(text.encode("utf-8", "surrogatepass"), index).items()):
            if share >= SHARE:
                row = index.segments[segment].files.slice(number, 1).to_pylist()[0]
                found.append(
                    {
                        "removed": f"{file.repository}/{file.path}",
                        "stays": f"{row['repo_name']}/{row['path']}",
                        "licenses": row["licenses"] or [],
                        "share": round(share, 3),
                    }
                )
    return found


def only_theirs(lines: Collection[str], index: Index) -> set[str]:
    """The lines that no file of the index has."""
    return {line for line in lines if not _stands(line.encode("utf-8", "surrogatepass"), index)}


def _stands(line: bytes, index: Index) -> bool:
    found = look_up(index.segments, line, kinds=("exact", "white_space"), minimum_characters=MINIMUM_SOLID)
    return any(match.start == 0 and match.end == len(line) for match in found.matches)


def _shares(data: bytes, index: Index) -> dict[tuple[int, int], float]:
    """The share of the lines that are not blank that each file has: (segment, file) -> 0 to 1."""
    counts: dict[tuple[int, int], int] = {}
    lines = 0
    for piece in _pieces(data):
        spans = [match.span() for match in re.finditer(rb"\S(?:[^\n]*\S)?", piece)]
        lines += len(spans)
        found = look_up(index.segments, piece, kinds=("exact", "white_space"), minimum_characters=MINIMUM_SOLID)
        covered: dict[tuple[int, int], set[int]] = {}
        for match in found.matches:
            whole = {n for n, (a, b) in enumerate(spans) if match.start <= a and b <= match.end}
            for place in match.places:
                covered.setdefault((place.segment, place.file), set()).update(whole)
        for key, numbers in covered.items():
            counts[key] = counts.get(key, 0) + len(numbers)
    return {key: count / lines for key, count in counts.items()} if lines else {}


def _pieces(data: bytes) -> list[bytes]:
    """Whole lines, up to `PIECE` bytes at once (a longer line alone)."""
    pieces: list[bytes] = []
    for line in data.splitlines(keepends=True):
        if pieces and len(pieces[-1]) + len(line) <= PIECE:
            pieces[-1] += line
        else:
            pieces.append(line)
    return pieces
