"""StarCoder's tokenizer: byte-level BPE with 19 special tokens, kept as ``tokenizer.json``.

Source text is encoded as text: a special token's name in a file never becomes a control token.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from starloom.errors import RunError, UserError

TOKENIZER_FILE, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"  # as transformers names them
END_OF_TEXT = "<|endoftext|>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX, FIM_PAD = "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"
LONG_TEXT = 4096  # characters; the library frees the GIL for batches alone, whose threads cost a short text more
SPECIAL_TOKENS = (
    END_OF_TEXT,
    FIM_PREFIX,
    FIM_MIDDLE,
    FIM_SUFFIX,
    FIM_PAD,
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<reponame>",
)


@dataclass(frozen=True)
class CodeTokenizer:
    """A ``tokenizer.json`` with the two ways to encode: as text, and with special tokens recognized."""

    json_text: str

    @cached_property
    def _plain(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.json_text)
        tokenizer.encode_special_tokens = True  # specials in the text are text
        return tokenizer

    @cached_property
    def _marked(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.json_text)

    @cached_property
    def size(self) -> int:
        """The largest id and one, specials included: ids may have gaps, and a model must have a row for each."""
        return max(self._marked.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The ids of the special tokens, as the library encodes them: a gap before an added token it closes itself."""
        added = json.loads(self.json_text)["added_tokens"]
        return {token["content"]: self._marked.token_to_id(token["content"]) for token in added if token["special"]}

    def special(self, token: str) -> int:
        """The id of a special token; `UserError` when this tokenizer lacks it."""
        try:
            return self.special_ids[token]
        except KeyError:
            raise UserError(f"the tokenizer has no special token {token}; it is none of StarCoder's") from None

    def encode(self, text: str) -> list[int]:
        """Ids of source text; names of special tokens in it are encoded as text."""
        return _ids(self._plain, text)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt in which special tokens are meant (editors build fill-in-the-middle prompts so)."""
        return _ids(self._marked, text)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return str(self._marked.decode(list(ids), skip_special_tokens=skip_special))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id; added tokens, special or not, are their names."""
        decoder = {character: byte for byte, character in enumerate(printable_bytes())}
        added = {token["content"] for token in json.loads(self.json_text)["added_tokens"]}
        table = [b""] * self.size
        for token, number in self._marked.get_vocab(with_added_tokens=True).items():
            table[number] = token.encode() if token in added else bytes(decoder[c] for c in token)
        return table

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of ids."""
        table = self.token_bytes
        # a model may have more ids than its tokenizer: padding of the vocabulary, which stands for no text
        return b"".join(table[number] for number in ids if number < len(table))


def _ids(tokenizer: Any, text: str) -> list[int]:
    if len(text) <= LONG_TEXT:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)
    (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    return list(encoding.ids)


def printable_bytes() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes, as written in vocabularies of byte-level BPE."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def load_tokenizer(path: str | Path) -> CodeTokenizer:
    """Read a ``tokenizer.json``, or the one in a folder.

    Raises:
        UserError: there is none, or it is not one.
    """
    location = Path(path)
    if location.is_dir():
        location = location / TOKENIZER_FILE
    if not location.is_file():
        raise UserError(f"{location}: no such file; the folder must hold a tokenizer.json")
    tokenizer = CodeTokenizer(location.read_text(encoding="utf-8"))
    try:
        tokenizer.size  # noqa: B018 - parses it
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise UserError(f"{location}: is no tokenizer.json: {error}") from None
    return tokenizer


def smallest_dtype(vocabulary: int) -> str:
    """``uint16`` when every id fits, else ``uint32``.

    Raises:
        RunError: more than 2^32 ids.
    """
    if vocabulary > 1 << 32:
        raise RunError(f"a vocabulary of {vocabulary} ids fits no token type")
    return "uint16" if vocabulary <= 1 << 16 else "uint32"
