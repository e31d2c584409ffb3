"""Text of a growing list of tokens: whole characters only, and nothing of a stop string or what may become one."""

import codecs
from dataclasses import dataclass, field


@dataclass
class TextStream:
    """Feed it bytes; it hands out text once it is certain. `stopped` is set when a stop string has come."""

    stop: tuple[str, ...]
    stopped: bool = False
    _held: str = ""
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def feed(self, piece: bytes, *, final: bool = False) -> str:
        """The text that these bytes set free; `final` frees everything that is held."""
        self._held += self._decoder.decode(piece, final)
        ends = [at for at in (self._held.find(word) for word in self.stop) if at >= 0]
        if ends:
            self.stopped = True
            return self._give(min(ends))
        return self._give(len(self._held) if final else len(self._held) - self._doubtful())

    def _doubtful(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(word) for word in self.stop), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in lengths if any(word.startswith(self._held[-n:]) for word in self.stop)), 0)

    def _give(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        return given
