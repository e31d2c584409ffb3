"""From what a client sends to token ids: plain prompts and documents with a gap."""

from typing import Literal

from starloom.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, CodeTokenizer

FimOrder = Literal["psm", "spm"]
SUFFIX_SHARE = 4  # when a document does not fit, the text after the cursor gets one part in four


def prompt_ids(tokenizer: CodeTokenizer, text: str) -> list[int]:
    """Ids of a prompt in which special tokens are meant.

    Raises:
        ValueError: the text is no Unicode text (half of a surrogate pair).
    """
    return tokenizer.encode_prompt(_whole(text))


def infilling_prompt(
    tokenizer: CodeTokenizer, prefix: str, suffix: str, room: int, order: FimOrder = "psm"
) -> list[int]:
    """The three sentinels around a document with a gap: at most `room` ids, what is farthest from the gap cut away.

    PSM: prefix-mark p suffix-mark s middle-mark; SPM: prefix-mark suffix-mark s middle-mark p (as in training).

    Raises:
        ValueError: there is no room for the three sentinels and a token.
    """
    room -= 3
    if room < 1:
        raise ValueError("max_tokens: leaves no room for the document; ask for fewer")
    before, after = tokenizer.encode(_whole(prefix)), tokenizer.encode(_whole(suffix))
    after = after[: max(room // SUFFIX_SHARE, room - len(before))]
    before = before[max(0, len(before) - (room - len(after))) :]
    first, second, third = (tokenizer.special(name) for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
    if order == "spm":
        return [first, second, *after, third, *before]
    return [first, *before, second, *after, third]


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("prompt: holds half of a surrogate pair; send valid Unicode") from None
    return text
