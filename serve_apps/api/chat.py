"""Conversations: from turns to the ids that a model was trained to answer."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from serve_apps.api.prompts import prompt_ids
from serve_apps.api.service import Served
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer

# A base model has seen no chat format; a dialogue in plain text with this stop is what it continues best.
PLAIN_DIALOGUE = (
    "{% for message in messages %}"
    "{{ {'user': 'Human', 'assistant': 'Assistant'}.get(message.role, message.role | capitalize) }}: "
    "{{ message.content }}\n\n{% endfor %}Assistant:"
)
PLAIN_STOP = "\n\nHuman:"


def chat_prompt(served: Served, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], tuple[str, ...]]:
    """The ids of a conversation up to where the assistant speaks, and what ends its turn besides the model's own ends.

    Raises:
        ValueError: the template refuses the messages, or they leave no room for an answer.
    """
    ids = conversation_ids(served.tokenizer, served.chat_template or PLAIN_DIALOGUE, messages)
    if len(ids) >= served.engine.context:
        raise ValueError(f"messages: their {len(ids)} tokens exceed the window of {served.engine.context} tokens")
    return ids, () if served.chat_template else (PLAIN_STOP,)


def conversation_ids(tokenizer: CodeTokenizer, template: str, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Ids in which the template's special tokens are control tokens and the same names in messages are text.

    Raises:
        ValueError: the template refuses the messages.
    """
    name = re.compile("|".join(map(re.escape, sorted(tokenizer.special_ids, key=len, reverse=True))))
    # names in messages pass the template as marks that nobody can guess, and are put back as text
    opening, found = f"\ue000{secrets.token_hex(8)}:", list[str]()

    def marked(match: re.Match[str]) -> str:
        found.append(match[0])
        return f"{opening}{len(found) - 1}\ue001"

    safe = [{key: name.sub(marked, value) for key, value in message.items()} for message in messages]
    text = conversation(template, safe, {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT})
    ids: list[int] = []
    for number, part in enumerate(re.split(f"{opening}(\\d+)\ue001", text)):
        ids += tokenizer.encode(found[int(part)]) if number % 2 else prompt_ids(tokenizer, part)
    return ids


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
