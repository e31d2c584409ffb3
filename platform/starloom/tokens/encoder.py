"""One encoder for packing, training and measuring: the ids of `tokenizers`, on the fastest route that gives them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from starloom.records import Piece, Special
from starloom.tokenizer import CodeTokenizer, printable_bytes

if TYPE_CHECKING:
    from starloom.tokens.bpe import CompiledEncoder

Route = Literal["compiled", "tokenizers"]
# what the compiled loop does is this split and nothing else
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_PLAIN_MODEL = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


@dataclass(frozen=True)
class Encoder:
    """Texts to ids; `route` is decided by the tokenizer alone, so that whoever encodes with it cuts alike."""

    tokenizer: CodeTokenizer
    _compiled: "CompiledEncoder | None"
    _turn: Lock  # the compiled loop's tables serve one thread at a time

    @staticmethod
    def of(tokenizer: CodeTokenizer) -> "Encoder":
        """The encoder of a tokenizer; made once in a process, since its tables take longer to build than to use."""
        return _made(tokenizer.json_text)

    @property
    def route(self) -> Route:
        """Which way texts go."""
        return "tokenizers" if self._compiled is None else "compiled"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """uint32 ids of each text; what the compiled loop leaves out goes through `tokenizers`."""
        found: Sequence[np.ndarray | None] = [None] * len(texts)
        if self._compiled is not None:
            with self._turn:
                found = self._compiled.encode(texts)
        return [
            np.asarray(self.tokenizer.encode(text), dtype=np.uint32) if ids is None else ids
            for ids, text in zip(found, texts, strict=True)
        ]

    def encode_pieces(self, pieces: Sequence[Piece]) -> np.ndarray:
        """uint32 ids of a document's pieces, control tokens as such.

        Raises:
            UserError: the tokenizer lacks one of the control tokens.
        """
        waiting = iter(self.encode([piece for piece in pieces if isinstance(piece, str)]))
        ids = [self.special(piece) if isinstance(piece, Special) else next(waiting) for piece in pieces]
        return np.concatenate(ids) if ids else np.empty(0, np.uint32)

    def special(self, piece: Special) -> np.ndarray:
        """uint32 [1]: the id of a control token.

        Raises:
            UserError: the tokenizer lacks it.
        """
        return np.array([self.tokenizer.special(piece.token)], dtype=np.uint32)


@lru_cache(maxsize=4)
def _made(json_text: str) -> Encoder:
    tokenizer = CodeTokenizer(json_text)
    if not is_compilable(json_text):
        return Encoder(tokenizer, None, Lock())
    from starloom.tokens.bpe import CompiledEncoder

    return Encoder(tokenizer, CompiledEncoder.of(tokenizer), Lock())


def is_compilable(json_text: str) -> bool:
    """Whether a ``tokenizer.json`` is StarCoder's kind: digits one by one, GPT-2's split, plain BPE over all bytes."""
    content: dict[str, Any] = json.loads(json_text)
    model = content["model"]
    split = content.get("pre_tokenizer") or {}
    first, *rest = split.get("pretokenizers") or [{}]
    return (
        content.get("normalizer") is None
        and split.get("type") == "Sequence"
        and first == _DIGITS
        and [{key: one.get(key) for key in _BYTE_LEVEL} for one in rest] == [_BYTE_LEVEL]
        and all(token["special"] for token in content.get("added_tokens", ()))
        and model.get("type") == "BPE"
        and not model.get("ignore_merges")
        and not model.get("byte_fallback")
        and not any(model.get(key) for key in _PLAIN_MODEL)
        and _has_every_byte(model["vocab"])
    )


def _has_every_byte(vocabulary: dict[str, int]) -> bool:
    return all(character in vocabulary for character in printable_bytes())
