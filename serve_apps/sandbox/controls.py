"""Negative controls: a pass counts only when the program fails a test that is wrong.

A completion that stands in one file with its tests can change what a test means: redefine `assert`, replace the test
library's functions, handle the signal of a failed assertion, read its own seal and print it. All of these pass a test
with a wrong expectation as well, and right programs do not. So the last test's expectation is made wrong, by the last
literal in it, and the program run once more. Languages differ only in where a test says what it expects.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from serve_apps.sandbox.sandbox import Verdict

MOST_TRIES = 8
PASSES_WRONG_TESTS = "it passes a test that is wrong, too"
NO_CONTROL = "passed without a control: none of its tests could be made wrong"

# a line with a test in it, in MultiPL-E's and HumanEvalPack's languages, without what it does when it fails
_TEST = re.compile(
    r"^.*?(?:[=!]=|\bexpect(?:ed)?\w*\s*[(:]|\.equals\(|[eE]qual\w*\(|assert_eq!|eq_deeply\(|identical\(|all\.equal\("
    r"|\(check-\w|\(is\s|@test\b|\[\[|\b[aA]ssert\b.*[^=<>!]=[^=]).*?(?=\b(?:throw|then|quit|die|else)\b|\)\s*\{\s|\{\s*t\.|$)",
    re.MULTILINE,
)
_LITERAL = re.compile(
    r'"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*'|(?<![\w.])\d+(?:\.\d+)?|\b(?:[tT]rue|[fF]alse|TRUE|FALSE)\b|#[tf]\b"
)
_OPPOSITE = {"true": "false", "True": "False", "TRUE": "FALSE", "#t": "#f"}
_OPPOSITE |= {false: true for true, false in _OPPOSITE.items()}
# between what a test expects and its end there are closing signs and suffixes of numbers alone; before it, the opening
_BEHIND = re.compile(r"(?:[lLfFuUdDnN]\b|_?[iu]\d+\b)?(?:[\s)\]}>;,]|\.to_\w+\(\)|\.into\(\))*\{?\s*")
_BEFORE = re.compile(r"[ \t]*assert[\w.]*(?:[\s(\[\]{:\-]|t,|u?int\d*|float\d+|string|bool|byte|map\[\w+\])*")
_EXPECTED_FIRST = frozenset({"Ruby", "Elixir"})
_TESTIFY = re.compile(r"\s*assert\.\w+\(")  # Go's library has what is expected first, MultiPL-E's tables last


def wrong_tests(language: str, source: str) -> Iterator[str]:
    """The source with one wrong expectation, in one test after another, from the last."""
    for found in reversed(list(_TEST.finditer(source))):
        start, end = found.span()
        literals = list(_LITERAL.finditer(source, start, end))
        if not literals:
            continue
        first, last = literals[0], literals[-1]
        if language in _EXPECTED_FIRST or (language == "Go" and _TESTIFY.match(source, start)):
            if _BEFORE.fullmatch(source, start, first.start()):
                yield _with_other(source, first)
        elif _BEHIND.fullmatch(source, last.end(), end):
            yield _with_other(source, last)


def _with_other(source: str, literal: re.Match[str]) -> str:
    text = literal.group()
    if text in _OPPOSITE:
        other = _OPPOSITE[text]
    else:
        other = f"{text[0]}7{text[1:]}" if text[0] in "\"'" else f"7{text}"
    return source[: literal.start()] + other + source[literal.end() :]


def controlled(verdict: Verdict, runs: Iterator[Verdict]) -> Verdict:
    """The verdict of a program that has passed, given how it ends with wrong tests, as far as it takes to know.

    The first that fails or passes decides; a wrong test that does not compile, or does not end, says nothing.
    """
    for _, run in zip(range(MOST_TRIES), runs, strict=False):
        if run.status == "failed":
            return verdict
        if run.passed:
            return replace(verdict, status="failed", detail=PASSES_WRONG_TESTS)
    return replace(verdict, detail=NO_CONTROL)
