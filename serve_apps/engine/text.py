"""Text of a growing list of tokens: whole characters only, and nothing of a stop string or what may become one."""

import codecs
import re
from dataclasses import dataclass, field


@dataclass
class TextStream:
    """Feed it bytes; it hands out text once it is certain.

    `stopped` is set when a stop string or the last line has come, and `word` to the string.

    `lines` are how many lines the text may have (0: any number); the break after the last is not handed out, nor is
    one before a line with less than `indent` white space. With `include_stop` a stop string is part of the text.
    """

    stop: tuple[str, ...]
    lines: int = 0
    include_stop: bool = False
    indent: int = 0
    stopped: bool = False
    word: str = ""
    _held: str = ""
    _breaks: int = 0
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def feed(self, piece: bytes, *, final: bool = False, may_stop: bool = True) -> str:
        """The text that these bytes set free; `final` frees everything that is held. Not every piece `may_stop`."""
        self._held += self._decoder.decode(piece, final)
        found = self._ends() if may_stop else []
        if found:
            self.stopped = True
            _, given, self.word = min(found)
            return self._give(given)
        return self._give(len(self._held) if final else len(self._held) - self._doubtful())

    def _ends(self) -> list[tuple[int, int, str]]:
        """Where the text may end in what is held: where the reason begins, how much is given, and the reason."""
        found = [(at, word) for word in self.stop if (at := self._held.find(word)) >= 0]
        ends = [(at, at + len(word) if self.include_stop else at, word) for at, word in found]
        short = re.search(rf"\n[ \t]{{0,{self.indent - 1}}}[^ \t\n]", self._held) if self.indent else None
        if short:
            ends.append((short.start(), short.start(), "\n"))
        if self.lines:
            at = -1
            for _ in range(max(1, self.lines - self._breaks)):
                at = self._held.find("\n", at + 1)
                if at < 0:
                    return ends
            ends.append((at, at, "\n"))
        return ends

    def _doubtful(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(word) for word in self.stop), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        begun = next((n for n in lengths if any(word.startswith(self._held[-n:]) for word in self.stop)), 0)
        line = re.search(r"\n[ \t\n]*$", self._held) if self.indent else None
        return max(begun, len(self._held) - line.start() if line else 0)

    def _give(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        self._breaks += given.count("\n")
        return given
