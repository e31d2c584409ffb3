"""A card: front matter and sections, each of which knows what it could not tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starloom.governance.facts import front_matter
from starloom.governance.publisher import NOT_STATED


@dataclass
class Section:
    """A part of a card; `missing` are settings of the publisher and kinds of artifact that would fill it."""

    title: str
    parts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, *parts: str) -> "Section":
        """Append paragraphs."""
        self.parts += parts
        return self

    def stated(self, value: str | None, setting: str) -> "Section":
        """Append what the publisher says, or that nothing is said."""
        if not value:
            self.missing.append(setting)
        return self.add(value or NOT_STATED)

    def lacks(self, what: str, sentence: str) -> "Section":
        """Append a sentence in the place of what no artifact tells."""
        self.missing.append(what)
        return self.add(sentence)


@dataclass(frozen=True)
class Card:
    """A page for the hub."""

    title: str
    front: Mapping[str, Any]
    sections: Sequence[Section]

    def text(self) -> str:
        """Markdown with front matter."""
        parts = [front_matter(self.front), f"# {self.title}"]
        for section in self.sections:
            parts += [f"## {section.title}", *section.parts]
        return "\n\n".join(parts) + "\n"

    def missing(self) -> dict[str, list[str]]:
        """What is missing, by section."""
        return {section.title: list(section.missing) for section in self.sections if section.missing}
