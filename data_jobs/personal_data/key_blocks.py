r"""Private keys as text: PEM and OpenSSH, PGP, PuTTY, age; from their first line to their last, whatever they are for.

A key in the source of a program is written over several lines with quotes, plus signs and ``\\n`` between: these belong
to it. A first and a last line with no key between them (a parser's constants) are no key.
"""

import re
from collections.abc import Iterator
from itertools import pairwise, zip_longest

from data_jobs.personal_data.findings import Finding

LONGEST = 40_000  # characters from the first line to the last
_BEGIN = re.compile(
    r"-{4,5} ?BEGIN (?P<label>(?:[A-Z0-9]{1,20} ){0,4}?"
    r"(?:PRIVATE KEY(?: BLOCK)?|PGP PUBLIC KEY BLOCK|PGP MESSAGE)) ?-{4,5}"
)
# what stands between the pieces of a key: headers of PEM and PGP, quotes and line ends of programming languages
_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|MessageID|Subject|X-[\w-]+):[^\n\\]*")
_WRAPPING = re.compile(r"\\[nrt]|\\u000[ad]|&#1[03];|[\s\"'`+.,;#*/\\|>()=-]", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=_]+")
_EDGES = re.compile(r"\A[\s\"'`#*;>|/-]+|(?:\\[nr]|[\s\"'`,;\\+])+\Z")  # around a line of base64
_PUTTY = re.compile(r"PuTTY-User-Key-File-\d+:")
_PUTTY_END = re.compile(r"Private-(?:MAC|Hash): {0,4}[0-9a-fA-F]{1,200}")
_AGE = re.compile(r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b")
_SHORTEST = 32  # characters of base64 in the smallest of keys


def find_key_blocks(text: str) -> Iterator[Finding]:
    """Every private key, and what PGP encloses; in linear time."""
    if "BEGIN " in text:
        yield from _armoured(text)
    if "PuTTY-User-Key-File" in text:
        yield from _putty(text)
    if "AGE-SECRET-KEY-1" in text:
        for found in _AGE.finditer(text):
            yield Finding(found.start(), found.end(), "key", found[0])


def _armoured(text: str) -> Iterator[Finding]:
    begins = list(_BEGIN.finditer(text))
    for begin, following in zip_longest(begins, begins[1:]):
        # no key is within another
        limit = min(begin.end() + LONGEST, following.start() if following else len(text))
        end = _end_of(text, begin, limit)
        if end is not None:
            yield Finding(begin.start(), end, "key", text[begin.start() : end])


def _end_of(text: str, begin: re.Match[str], limit: int) -> int | None:
    """Where a key ends: behind its last line, or where its base64 ends when that line is missing."""
    closing = re.compile(rf"-{{4,5}} ?END {re.escape(begin['label'])} ?-{{4,5}}").search(text, begin.end(), limit)
    if closing and _is_key(text[begin.end() : closing.start()]):
        return closing.end()
    return _end_of_base64(text, begin.end(), closing.start() if closing else limit)


def _is_key(body: str) -> bool:
    """Whether nothing but base64 and its wrapping stands there."""
    plain = _WRAPPING.sub(" ", _HEADER.sub(" ", body))
    words = plain.split()
    base64 = sum(len(word) for word in words if _BASE64.fullmatch(word) and len(word) >= 4)
    other = sum(map(len, words)) - base64
    return base64 >= _SHORTEST and other * 10 <= base64 and max(map(len, words)) >= 16


def _end_of_base64(text: str, at: int, limit: int) -> int | None:
    """The end of the lines of base64 that follow; None where there are too few."""
    end, size = at, 0
    for line in text[at:limit].splitlines(keepends=True):
        content = _EDGES.sub("", _HEADER.sub("", line))
        if content and not (_BASE64.fullmatch(content) and (len(content) >= 16 or (size and content[-1] == "="))):
            break
        at += len(line)
        if content:
            size += len(content)
            end = at - (len(line) - len(line.rstrip()))
    return end if size >= _SHORTEST else None


def _putty(text: str) -> Iterator[Finding]:
    starts = [begin.start() for begin in _PUTTY.finditer(text)]
    for start, limit in pairwise([*starts, len(text)]):
        closing = _PUTTY_END.search(text, start, min(limit, start + LONGEST))
        if closing and "Private-Lines:" in text[start : closing.start()]:
            yield Finding(start, closing.end(), "key", text[start : closing.end()])
