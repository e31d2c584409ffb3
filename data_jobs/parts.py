"""The text of a record that has parts (an issue's comments, a notebook's cells, a commit's two sides).

The parts travel in the corpus's ``content`` as plain text between ASCII separators, so that every rule that reads text
reads them too, and an edit inside a part cannot break the structure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_RECORD = "\x1e"
_UNIT = "\x1f"
_REMOVED = str.maketrans({_RECORD: None, _UNIT: None, "\0": None})


@dataclass(frozen=True)
class Part:
    """A role (``title``, ``comment``, ``code``, ``output``, ``before``, ...) and its text."""

    role: str
    text: str


def join_parts(parts: Iterable[Part]) -> str:
    """The parts as one string; separators that occur in a text are removed from it."""
    return "".join(f"{_RECORD}{part.role}{_UNIT}{part.text.translate(_REMOVED)}" for part in parts)


def split_parts(content: str) -> list[Part]:
    """The parts of a string that `join_parts` made.

    Raises:
        ValueError: the string has no such structure.
    """
    if not content.startswith(_RECORD):
        raise ValueError("the content has no parts")
    parts = []
    for record in content[1:].split(_RECORD):
        role, separator, text = record.partition(_UNIT)
        if not separator:
            raise ValueError(f"a part without a role: {record[:40]!r}")
        parts.append(Part(role, text))
    return parts
