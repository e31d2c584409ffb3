"""Quality rules: pure functions from a file to a verdict.

Sources: StarCoder's filters (bigcode-dataset, preprocessing) and StarCoder2's (the-stack-v2). A rule of one's own is a
function `SourceFile -> Verdict | None` named in the config as ``module:function``.
"""

import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from pydantic import Field

from data_jobs import runs
from data_jobs.languages import Language, extension_of
from data_jobs.origins import generated_mark, vendored_part
from data_jobs.verdicts import Verdict
from starloom import plugins, records
from starloom.config import Config


class QualityLimits(Config):
    """Thresholds of the built-in rules; languages.toml says where they are waived or differ."""

    longest_line: int = Field(1000, gt=0)  # characters
    mean_line: float = Field(100.0, gt=0)  # characters
    alphanumeric: float = Field(0.25, ge=0, le=1)  # share of characters
    lines: int = Field(100_000, gt=0)
    encoded_characters: int = Field(1024, gt=0)  # the longest run of base64, hex or \\u escapes
    encoded_share: float = Field(0.5, gt=0, le=1)  # of the whole file
    html_visible: float = Field(0.2, ge=0, le=1)
    html_characters: int = Field(100, ge=0)


@dataclass(frozen=True)
class SourceFile:
    """A file as the rules see it; measures that several rules need are taken once."""

    path: str
    content: str
    language: Language
    limits: QualityLimits = field(default_factory=QualityLimits)

    @cached_property
    def extension(self) -> str:
        """Lower case, without the dot."""
        return extension_of(self.path)

    @cached_property
    def line_lengths(self) -> np.ndarray:
        """Characters of each line, int64 [lines], without its line break."""
        ends = np.flatnonzero(self._code_points == 10)
        return np.diff(np.concatenate(([-1], ends, [len(self._code_points)]))) - 1

    @cached_property
    def alphanumeric(self) -> int:
        """The number of letters and digits."""
        return self._count(_ALPHANUMERIC, str.isalnum)

    @cached_property
    def alphabetic(self) -> int:
        """The number of letters."""
        return self._count(_ALPHABETIC, str.isalpha)

    @cached_property
    def _code_points(self) -> np.ndarray:
        return runs.code_points(self.content)

    def _count(self, table: np.ndarray, test: Callable[[str], bool]) -> int:
        points = self._code_points
        counts = np.bincount(points[points < 128], minlength=128)
        rest = points[points >= 128]
        values, repeats = np.unique(rest, return_counts=True)
        beyond = sum(int(n) for value, n in zip(values, repeats, strict=True) if test(chr(int(value))))
        return int(counts[table].sum()) + beyond


def visible_characters(html: str) -> int:
    """Characters of a page that are no blanks, markup, comments, scripts or styles; in linear time."""
    lowered = html.lower() if len(html.lower()) == len(html) else html
    missing: set[str] = set()  # ends that do not come any more
    visible = at = 0

    def end_of(mark: str, start: int) -> int:
        found = -1 if mark in missing else lowered.find(mark, start)
        if found < 0:
            missing.add(mark)
        return found

    while (start := html.find("<", at)) >= 0:
        visible += len("".join(html[at:start].split()))
        raw = _RAW_ELEMENT.match(html, start)
        if html.startswith("<!--", start):
            end = end_of("-->", start + 4)
            at = end + 3
        elif raw and (closing := end_of(f"</{raw[1].lower()}", raw.end())) >= 0:
            end = end_of(">", closing)
            at = end + 1
        else:
            end = end_of(">", start + 1)
            at = end + 1
        if end < 0:  # no markup without an end
            visible += 1
            at = start + 1
    return visible + len("".join(html[at:].split()))


class Rule(Protocol):
    """One reason to drop a file."""

    def __call__(self, file: SourceFile, /) -> Verdict | None:
        """The verdict, or None to keep the file."""
        ...


_RAW_ELEMENT = re.compile(r"<(script|style)\b", re.IGNORECASE)
PROSE = frozenset(["Markdown", "reStructuredText", "TeX", "AsciiDoc", "Org", "MDX", "Typst", "RMarkdown"])
_ALPHANUMERIC = np.array([code for code in range(128) if chr(code).isalnum()])
_ALPHABETIC = np.array([code for code in range(128) if chr(code).isalpha()])
_HEX = re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,\s*|\b\s*)){8,}", re.ASCII)
_HEX_DIGITS = runs.character_class(string.hexdigits)
_HEX_CHARACTERS = runs.character_class(string.hexdigits + "x\\," + string.whitespace)
_BASE64 = runs.character_class(string.ascii_letters + string.digits + "+/=\n")
_UNICODE_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")


def line_lengths(file: SourceFile) -> Verdict | None:
    """Longest and mean line; waived for text-like languages."""
    if not file.language.line_limits:
        return None
    longest = int(file.line_lengths.max())
    if longest > file.limits.longest_line:
        return Verdict("long_line", f"{longest} characters, limit {file.limits.longest_line}")
    mean = float(file.line_lengths.mean())
    if mean > file.limits.mean_line:
        return Verdict("long_lines", f"mean {mean:.1f} characters, limit {file.limits.mean_line:g}")
    return None


def too_many_lines(file: SourceFile) -> Verdict | None:
    """More lines than a person would write, or one of that many characters, in any language."""
    if len(file.line_lengths) > file.limits.lines:
        return Verdict("too_many_lines", f"{len(file.line_lengths)} lines, limit {file.limits.lines}")
    longest = int(file.line_lengths.max())
    if longest > file.limits.lines:
        return Verdict("long_line", f"{longest} characters, limit {file.limits.lines}")
    return None


def alphanumeric(file: SourceFile) -> Verdict | None:
    """The share of letters and digits."""
    share = file.alphanumeric / max(1, len(file.content))
    if share < file.limits.alphanumeric:
        return Verdict("few_alphanumeric", f"share {share:.3f}, limit {file.limits.alphanumeric:g}")
    return None


def alphabetic(file: SourceFile) -> Verdict | None:
    """The share of letters, for the extensions that languages.toml names."""
    limit = file.language.alphabetic
    named = file.language.alphabetic_extensions
    if limit is None or (named is not None and file.extension not in named):
        return None
    share = file.alphabetic / max(1, len(file.content))
    return Verdict("few_letters", f"share {share:.3f}, limit {limit:g}") if share < limit else None


def xml(file: SourceFile) -> Verdict | None:
    """XML under another extension: its declaration within the first 100 characters (XSLT is XML by right)."""
    if file.language.name != "XSLT" and "<?xml version=" in file.content[:100]:
        return Verdict("xml", "an XML declaration in the first 100 characters")
    return None


def html(file: SourceFile) -> Verdict | None:
    """HTML needs visible text: a share of the file and a number of characters."""
    if file.language.name != "HTML":
        return None
    visible = visible_characters(file.content)
    share = visible / max(1, len(file.content))
    if share <= file.limits.html_visible or visible <= file.limits.html_characters:
        return Verdict("little_visible_text", f"{visible} characters, share {share:.3f}")
    return None


def characters(file: SourceFile) -> Verdict | None:
    """Data formats are kept within a range of sizes."""
    if file.language.characters is None:
        return None
    low, high = file.language.characters
    size = len(file.content)
    return None if low <= size <= high else Verdict("data_size", f"{size} characters, range {low} to {high}")


def generated(file: SourceFile) -> Verdict | None:
    """A machine says so in the opening comment, or the path does."""
    found = generated_mark(file.path, file.content, prose=file.language.name in PROSE)
    return Verdict("generated", found) if found else None


def vendored(file: SourceFile) -> Verdict | None:
    """A copy of somebody else's code, by its path."""
    found = vendored_part(file.path)
    return Verdict("vendored", found) if found else None


def encoded_data(file: SourceFile) -> Verdict | None:
    """Long runs of base64, hex or escapes: data in a source file."""
    for name, lengths in (("base64", _base64), ("hex", _hex), ("unicode escapes", _unicode_escapes)):
        longest = total = 0
        for length in lengths(file.content):
            longest, total = max(longest, length), total + length
        if longest > file.limits.encoded_characters:
            return Verdict(
                "encoded_data", f"{name}: a run of {longest} characters, limit {file.limits.encoded_characters}"
            )
        if total > file.limits.encoded_share * len(file.content):
            return Verdict("encoded_data", f"{name}: {total} of {len(file.content)} characters")
    return None


def _base64(text: str) -> Iterator[int]:
    """Lengths of all runs of 64 characters or more."""
    return (end - start for start, end in runs.runs(text, _BASE64, 64, _BASE64, 64))


def _hex(text: str) -> Iterator[int]:
    """Lengths of all runs of eight bytes or more, with or without 0x, commas and blanks."""
    for start, end in runs.runs(text, _HEX_CHARACTERS, 16, _HEX_DIGITS, 16):
        for found in _HEX.finditer(text, start, end + 1):  # one more: whether the last word ends there
            yield found.end() - found.start()


def _unicode_escapes(text: str) -> Iterator[int]:
    """Lengths of all runs of eight escapes or more."""
    if "\\u" in text:
        for found in _UNICODE_ESCAPES.finditer(text):
            yield found.end() - found.start()


RULES: dict[str, Rule] = {
    "too_many_lines": too_many_lines,
    "line_lengths": line_lengths,
    "alphanumeric": alphanumeric,
    "alphabetic": alphabetic,
    "xml": xml,
    "html": html,
    "characters": characters,
    "generated": generated,
    "vendored": vendored,
    "encoded_data": encoded_data,
}


def load_rules(names: Sequence[str]) -> list[Rule]:
    """The rules of that name, built in or ``module:function``.

    Raises:
        UserError: there is no such rule.
    """
    return plugins.load_all(names, RULES, what="rules", group="rules")


def judge(file: SourceFile, rules: Sequence[Rule]) -> Verdict | None:
    """The first rule's verdict that drops the file."""
    for rule in rules:
        verdict = rule(file)
        if verdict is not None:
            return verdict
    return None


# what makes sense of records with parts; their texts are judged together
_RECORD_RULES = {
    "notebook": ("too_many_lines", "alphanumeric", "vendored", "encoded_data"),
    "commit": ("too_many_lines", "alphanumeric", "generated", "vendored", "encoded_data"),
    "issue": ("too_many_lines", "alphanumeric", "encoded_data"),
}


def judge_record(kind: str, path: str, content: str, limits: QualityLimits, applied: frozenset[str]) -> Verdict | None:
    """The verdict on a notebook, commit or issue by those of the `applied` built-in rules that make sense of it."""
    parts = records.split_parts(content)
    # a commit is named by its file and the commit; of its text only what it leaves is new
    path = path.rsplit("@", 1)[0] if kind == "commit" else path
    text = "\n".join(part.text for part in parts if part.role != "before")
    code = next((part.text for part in parts if part.role == "after"), text)
    for name in _RECORD_RULES[kind]:
        if name in applied:
            seen = code if name == "generated" else text
            verdict = RULES[name](SourceFile(path, seen or " ", Language(name=kind), limits))
            if verdict is not None:
                return verdict
    return None
