"""Prompt lookup: what followed the last few tokens when they came before is a draft of what follows now.

The draft is checked by one step over all its tokens: those that the model would have chosen anyway are kept, so the
answer never changes. (A. Saxena, Prompt Lookup Decoding, 2023.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

LONG, SHORT = 4, 2  # tokens that must match


@dataclass
class PromptLookup:
    """The places of all runs of LONG and SHORT tokens of one sequence, and how far to trust them."""

    most: int
    _ids: list[int] = field(default_factory=list)
    _after: dict[tuple[int, ...], int] = field(default_factory=dict)
    _width: int = 2

    def extend(self, ids: Sequence[int]) -> None:
        """Take in the sequence's next tokens."""
        for token in ids:
            place = len(self._ids)
            for size in (LONG, SHORT):
                if place >= size:
                    self._after[tuple(self._ids[-size:])] = place
            self._ids.append(token)

    def draft(self, room: int) -> list[int]:
        """At most `room` tokens that may come next; none when the past tells nothing."""
        for size, width in ((LONG, max(self._width, 2)), (SHORT, self._width)):
            place = self._after.get(tuple(self._ids[-size:]))
            if place is not None and len(self._ids) >= size:
                return self._ids[place : place + min(width, room, self.most)]
        return []

    def learn(self, drafted: int, accepted: int) -> None:
        """Draft more where drafts hold, less where they do not."""
        if accepted == drafted:
            self._width = min(max(2 * self._width, 2), self.most)
        elif 2 * accepted < drafted:
            self._width //= 2
