"""Places of held-out files that are worth a look: a function under its docstring, a gap in the middle of one."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# lines that open a function or a class in most languages; the indentation is the first group
_OPENS = re.compile(
    r"^([ \t]*)(?:(?:export|public|private|protected|static|async|pub) )*(?:def|func|function|fn|class) "
)
_DOCSTRING = re.compile(r"^[ \t]+[rR]?(\"\"\"|''')")
LINES_BEFORE = (12, 6, 3, 0)  # of a function, as many as there is room for
BODY = 4  # lines that a function has at least
GAP = 2  # lines that are left out in the middle
NOWHERE = -1  # the indentation of what opens no function: nothing ends it
_CLOSERS = ("}", "end", ")")


@dataclass(frozen=True)
class Spot:
    """What a model is asked: what follows the prompt, or what stands before the suffix."""

    prompt: str
    suffix: str
    indentation: int  # of the function that the prompt opens


@dataclass(frozen=True)
class _Function:
    """Lines of a file: where it opens, where its body begins, and the first line after it."""

    opens: int
    body: int
    stop: int
    documented: bool
    indentation: int


def spots(content: str, *, middle: bool, fits: Callable[[str], bool]) -> Iterator[Spot]:
    """The best spots of a file first: documented functions before others, and those that begin early.

    `fits` says whether a text leaves room enough for an answer.
    """
    lines, none = content.splitlines(keepends=True), True
    found = sorted(_functions(lines), key=lambda function: not function.documented)
    for function in found:
        for before in LINES_BEFORE:
            first = max(0, function.opens - before)
            if middle:
                cut = function.body + (function.stop - function.body - GAP) // 2
                prompt, suffix = "".join(lines[first:cut]), "".join(lines[cut + GAP : function.stop])
            else:
                prompt, suffix = "".join(lines[first : function.body]), ""
            if fits(prompt + suffix):
                yield Spot(prompt, suffix, function.indentation)
                none = False
                break
    if none:  # no function, or none that there is room for: how the file begins
        openings = ("".join(lines[:count]) for count in LINES_BEFORE if count)
        opening = next((text for text in openings if text.strip() and fits(text)), "")
        if opening:
            yield Spot(opening, "", NOWHERE)


def finished(completion: str, spot: Spot) -> str:
    """A completion up to the end of the function that its prompt opens; of a gap all of it."""
    if spot.suffix:
        return completion
    kept = []
    lines = completion.splitlines(keepends=True)
    for number, line in enumerate(lines):
        text = line.strip()
        # the first line may end the prompt's last one
        if number and text and len(line) - len(line.lstrip()) <= spot.indentation:
            if text.startswith(_CLOSERS):
                kept.append(line)
            break
        kept.append(line)
    return "".join(kept).rstrip() + "\n"


def _functions(lines: list[str]) -> Iterator[_Function]:
    for number, line in enumerate(lines):
        opened = _OPENS.match(line)
        if not opened or not line.rstrip().endswith((":", "{")):
            continue
        indentation = len(opened[1])
        stop = next(
            (
                n
                for n in range(number + 1, len(lines))
                if lines[n].strip() and len(lines[n]) - len(lines[n].lstrip()) <= indentation
            ),
            len(lines),
        )
        body = _after_docstring(lines, number + 1)
        if stop - body >= BODY:
            yield _Function(number, body, stop, body > number + 1, indentation)


def _after_docstring(lines: list[str], first: int) -> int:
    opened = _DOCSTRING.match(lines[first]) if first < len(lines) else None
    if not opened:
        return first
    quotes = opened[1]
    if lines[first].count(quotes) > 1:
        return first + 1
    return next((n + 1 for n in range(first + 1, len(lines)) if quotes in lines[n]), first)
