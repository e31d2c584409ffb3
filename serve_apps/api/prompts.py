"""From what a client sends to token ids, for every dialect: raw prompts, and documents with a gap and other files."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

from serve_apps.api.errors import Problem
from starloom.tokenizer import END_OF_TEXT, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, CodeTokenizer

FimOrder = Literal["psm", "spm"]
FILE_NAME = "<filename>"
SUFFIX_SHARE = 4  # when a document does not fit, the text after the cursor gets one part in four
OTHERS_SHARE = 4  # beside a document that fills the window, other files get one part in four
OTHERS_MOST = 2  # and never more than half
# What is cut is cut at multiples of a part of the window, counted from the document's beginning: while somebody types
# at the end of a long file, the prompt begins at the same place and its prefix is found in the cache.
GRID = 8
CHARACTERS_PER_TOKEN = 8  # text so far from the gap that tokens of this length would fill the window is not looked at
LINE_SEARCH = 64  # tokens; a cut moves on to the next line's beginning where that is no farther
SHORT = 4096  # characters that are encoded on the event loop, in less than a few milliseconds
SHORTEST_PIECE = 16  # tokens of another file that are worth their place
T = TypeVar("T")


@dataclass(frozen=True)
class OtherFile:
    """A piece of another file."""

    text: str
    name: str = ""


@dataclass(frozen=True)
class Document:
    """Text around a cursor, as text: names of special tokens in it are no control tokens.

    `after` is None where nothing is known of what follows; `others` are pieces of other files, what changes least
    first; `name` is the file's path, as metadata before the document have it in training.
    """

    before: str
    after: str | None = None
    others: Sequence[OtherFile] = ()
    name: str = ""

    @property
    def size(self) -> int:
        """Characters of all of it."""
        return len(self.before) + len(self.after or "") + sum(len(other.text) for other in self.others)


@dataclass(frozen=True)
class PromptBuilder:
    """Prompts for a model's window of `context` tokens, at least one of which is left for the answer."""

    tokenizer: CodeTokenizer
    context: int
    order: FimOrder = "psm"

    async def raw(self, text: str, field: str = "prompt") -> list[int]:
        """Ids of a prompt in which special tokens are meant, encoded beside the event loop where it is long.

        As in training, a document begins after an end of text: so does an empty prompt.

        Raises:
            Problem: it does not fit the window, or is no Unicode text; `field` is where it was sent.
        """
        whole(text, field)
        self.possible(len(text), field)
        ids = await beside_the_loop(len(text), lambda: self.tokenizer.encode_prompt(text))
        return self.fitting(ids or [self.tokenizer.special(END_OF_TEXT)], field)

    async def latest(self, text: str, answer: int) -> list[int]:
        """As `raw`, but what does not fit beside an answer of so many tokens is cut away, the oldest first."""
        whole(text, "prompt")
        room = self._room(answer)
        ids = await beside_the_loop(len(text), lambda: self._end(text, room, self.tokenizer.encode_prompt))
        return self._cut(ids, room) or [self.tokenizer.special(END_OF_TEXT)]

    async def document(self, document: Document, answer: int) -> list[int]:
        """Other files, the document's name and the text around the gap, with room left for `answer` tokens.

        PSM: prefix-mark before suffix-mark after middle-mark; SPM: prefix-mark suffix-mark after middle-mark before,
        as in training. What does not fit is cut, what is farthest from the gap first.

        Raises:
            Problem: a text is no Unicode text, or the window has no room for a gap.
        """
        for text in (document.before, document.after or "", document.name):
            whole(text, "prompt")
        for other in document.others:
            whole(other.text + other.name, "extra_context")
        return await beside_the_loop(document.size, lambda: self._document(document, answer))

    def possible(self, characters: int, field: str) -> None:
        """`Problem` when so many characters cannot fit, whatever they are: told before they are encoded."""
        least = -(-characters // self._longest)
        if least > self.context:
            raise self.exceeded(f"at least {least}", field)

    def known(self, ids: Sequence[int], field: str = "prompt") -> list[int]:
        """The same ids; `Problem` where one is none of the tokenizer's."""
        if any(not 0 <= token < self.tokenizer.size for token in ids):
            raise Problem(400, f"{field}: ids must lie in 0..{self.tokenizer.size - 1}")
        return list(ids)

    def fitting(self, ids: list[int], field: str = "prompt") -> list[int]:
        """The same ids; `Problem` when they leave no room for an answer."""
        if len(ids) >= self.context:
            raise self.exceeded(str(len(ids)), field)
        return ids

    def exceeded(self, tokens: str, field: str) -> Problem:
        """What OpenAI says of a prompt that is too long: clients look for the code and for the sentence."""
        what = f"your {field} resulted in" if field == "messages" else f"your {field} has"
        return Problem(
            400,
            f"This model's maximum context length is {self.context} tokens. However, {what} {tokens} tokens. Please "
            f"reduce the length of the {field}.",
            code="context_length_exceeded",
            field=field,
        )

    @cached_property
    def infills(self) -> bool:
        """Whether the tokenizer has the three marks of a gap."""
        return {FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE} <= set(self.tokenizer.special_ids)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokenizer.token_bytes))

    def _room(self, answer: int) -> int:
        return self.context - max(1, min(answer, self.context // 2))

    def _document(self, document: Document, answer: int) -> list[int]:
        header = self._header(document.name)
        room = self._room(answer) - (3 if document.after is not None else 0) - len(header)
        if room < 1:
            raise self.exceeded(f"{self.context - room + 1}", "prompt")
        before = self._end(document.before, room, self.tokenizer.encode)
        after = self.tokenizer.encode((document.after or "")[: room * CHARACTERS_PER_TOKEN])
        others = self._others(document.others, room, len(before) + len(after))
        room -= len(others)
        # by steps here too: in suffix-first order what is before the gap stands behind what is after it
        after = after[: max(room // SUFFIX_SHARE, room - self._step_up(len(before), room))]
        around = self._around(self._cut(before, room - len(after)), None if document.after is None else after)
        return [*others, *header, *around] or [self.tokenizer.special(END_OF_TEXT)]

    def _around(self, before: list[int], after: list[int] | None) -> list[int]:
        if after is None:
            return before
        if not self.infills:
            raise Problem(400, "suffix: this model's tokenizer has no tokens to fill a gap with; leave it out")
        first, second, third = (self.tokenizer.special(name) for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
        if self.order == "spm":
            return [first, second, *after, third, *before]
        return [first, *before, second, *after, third]

    def _header(self, name: str) -> list[int]:
        if not name or FILE_NAME not in self.tokenizer.special_ids:
            return []
        return [self.tokenizer.special(FILE_NAME), *self.tokenizer.encode(f"{name}\n")]

    def _others(self, others: Sequence[OtherFile], room: int, document: int) -> list[int]:
        """The newest pieces that have room, in the order in which they came; the oldest of them may lose its end."""
        left = room // (OTHERS_MOST if document <= room // OTHERS_MOST else OTHERS_SHARE)
        kept: list[list[int]] = []
        for other in reversed(others):
            head = self._header(other.name)
            text = self.tokenizer.encode(other.text[: left * CHARACTERS_PER_TOKEN].removesuffix("\n") + "\n")
            if len(head) + min(len(text), SHORTEST_PIECE) > left:
                break
            kept.append([*head, *text[: left - len(head)]])
            left -= len(kept[-1])
        return [token for piece in reversed(kept) for token in piece]

    def _end(self, text: str, room: int, encode: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text's end, of all that can matter for so many tokens."""
        most, step = room * CHARACTERS_PER_TOKEN, max(1, room * CHARACTERS_PER_TOKEN // GRID)
        return encode(text[_up(max(0, len(text) - most), step) :])

    def _cut(self, ids: list[int], room: int) -> list[int]:
        """The last of these ids, at most `room`; they begin on the grid, at a line's beginning where one is near."""
        if len(ids) <= room:
            return ids
        start = _up(len(ids) - room, max(1, room // GRID))
        pieces = self.tokenizer.token_bytes
        near = range(start, min(start + min(LINE_SEARCH, room // GRID), len(ids)))
        return ids[next((place for place in near if pieces[ids[place - 1]].endswith(b"\n")), start) :]

    def _step_up(self, tokens: int, room: int) -> int:
        return _up(tokens, max(1, room // GRID))


async def beside_the_loop(characters: int, work: Callable[[], T]) -> T:
    """The result of work on so many characters: short work at once, long work on a thread of its own."""
    return work() if characters <= SHORT else await asyncio.to_thread(work)


def whole(text: str, field: str) -> str:
    """The same text; `Problem` where it is no Unicode text (half of a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Problem(400, f"{field}: holds half of a surrogate pair; send valid Unicode", field=field) from None
    return text


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
