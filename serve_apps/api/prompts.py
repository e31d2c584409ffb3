"""From what a client sends to token ids: plain prompts, documents with a gap, conversations."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from starloom.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, CodeTokenizer

FimOrder = Literal["psm", "spm"]
SUFFIX_SHARE = 4  # when a document does not fit, the text after the cursor gets one part in four
# A base model has seen no chat format; a dialogue in plain text with this stop is what it continues best.
PLAIN_DIALOGUE = (
    "{% for message in messages %}"
    "{{ {'user': 'Human', 'assistant': 'Assistant'}.get(message.role, message.role | capitalize) }}: "
    "{{ message.content }}\n\n{% endfor %}Assistant:"
)
PLAIN_STOP = "\n\nHuman:"


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


def conversation(template: str, messages: Sequence[Mapping[str, Any]], specials: Mapping[str, str]) -> str:
    """The text of a conversation up to where the assistant speaks; the template comes with the model: sandboxed.

    Raises:
        ValueError: the template refuses the messages.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(f"messages: {message}")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    try:
        made = environment.from_string(template)
        return made.render(messages=list(messages), add_generation_prompt=True, **specials)
    except TemplateError as error:
        raise ValueError(f"messages: the model's chat template refuses them: {error}") from None


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("prompt: holds half of a surrogate pair; send valid Unicode") from None
    return text
