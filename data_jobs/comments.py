"""The comment that a file begins with: where its licence and its authors stand, and not yet its content."""

import re
from collections.abc import Iterator

HEADER_CHARACTERS = 20_000  # no header is longer
LICENCE_WORDS = ("license", "licence", "copyright", "(c)", "©", "spdx-", "permission is", "redistribution and use")
# a first line that is no comment of the author's: #!, an encoding, <?php, <?xml ...?>, @charset
_OPENING = re.compile(r"\ufeff?(?:#![^\n]*\n|<\?(?:php|xml)[^\n]*\n|(?:#|//|%|;)?[ \t]{0,40}-\*-[^\n]*\n|[ \t]*\n)*")
_BLOCKS = (
    ("/*", "*/"),
    ("<!--", "-->"),
    ("(*", "*)"),
    ("{-", "-}"),
    ("--[[", "]]"),
    ("--[==[", "]==]"),
    ("#|", "|#"),
    ("<#", "#>"),
    ("{{!", "}}"),
    ("<%#", "%>"),
    ("<%--", "--%>"),
    ("{#", "#}"),
    ("=begin", "=end"),
    ("#=", "=#"),
    ('"""', '"""'),
    ("'''", "'''"),
    ("/+", "+/"),
)
# quotes, stars and dots begin code and prose too: they count before a blank alone
_LINES = ("//", "#", "--", ";", "%", "! ", "' ", "*>", "dnl ", "REM ", "rem ", "@c ", '.\\"', '" ', "C ", "* ", ".. ")
_BLOCKS_BY_FIRST = {
    first: tuple(pair for pair in _BLOCKS if pair[0][0] == first) for first in {o[0] for o, _ in _BLOCKS}
}
_LINES_BY_FIRST = {first: tuple(mark for mark in _LINES if mark[0] == first) for first in {m[0] for m in _LINES}}


def opening_comment(text: str) -> int:
    """Where the first comment ends, blank lines after it included: characters from the start; 0 where there is none.

    Neighbouring comments of the same kind count as one, for a header is often written in several.
    """
    return max((end for _, end in _comments(text)), default=0)


def licence_header(text: str) -> int:
    """Where the last of the first comments ends that speaks of a licence or a copyright; 0 where none does.

    What stands there is the same in thousands of files that have nothing else in common.
    """
    lowered = text[:HEADER_CHARACTERS].lower()
    if len(lowered) != min(len(text), HEADER_CHARACTERS):
        lowered = text[:HEADER_CHARACTERS]  # letters that are two in lower case: places must stay
    licensed = 0
    for start, end in _comments(text):
        comment = lowered[start:end]
        if any(word in comment for word in LICENCE_WORDS):
            licensed = end
    return licensed


def _comments(text: str) -> Iterator[tuple[int, int]]:
    """The comments before anything else, with the blank lines behind each."""
    found = _OPENING.match(text, 0, HEADER_CHARACTERS)
    at = found.end() if found else 0
    limit = min(len(text), HEADER_CHARACTERS)
    while at < limit:
        start, end = at, _block(text, at) or _lines(text, at)
        if end is None:
            return
        at = end
        while at < limit and text[at] in " \t\r\n":
            at += 1
        yield start, at


def _block(text: str, at: int) -> int | None:
    for opening, closing in _BLOCKS_BY_FIRST.get(text[at], ()):
        if text.startswith(opening, at):
            end = text.find(closing, at + len(opening), at + HEADER_CHARACTERS)
            return None if end < 0 else end + len(closing)
    return None


def _lines(text: str, at: int) -> int | None:
    mark = next((mark for mark in _LINES_BY_FIRST.get(text[at], ()) if text.startswith(mark, at)), None)
    if mark is None:
        return None
    while text.startswith(mark, at):
        line = text.find("\n", at)
        if line < 0:
            return len(text)
        at = line + 1
        while at < len(text) and text[at] in " \t":
            at += 1
    return at
