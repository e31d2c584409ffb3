"""Conversations: from turns to the ids that a model was trained to answer."""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve_apps.api.errors import Problem
from serve_apps.api.prompts import beside_the_loop, whole
from serve_apps.api.service import Served
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer

# A base model has seen no chat format; a dialogue in plain text with this stop is what it continues best.
PLAIN_DIALOGUE = (
    "{% for message in messages %}"
    "{{ {'user': 'Human', 'assistant': 'Assistant'}.get(message.role, message.role | capitalize) }}: "
    "{{ message.content }}\n\n{% endfor %}Assistant:"
)
PLAIN_STOP = "\n\nHuman:"
Turn = Mapping[str, Any]


async def chat_prompt(
    served: Served, messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """The ids of a conversation up to where the assistant speaks, and what ends its turn besides the model's own ends.

    Raises:
        Problem: the template has no place for tools, or the messages leave no room for an answer.
        ValueError: the template refuses the messages.
    """
    template = served.chat_template or PLAIN_DIALOGUE
    if tools and "tools" not in named_in(template):
        raise Problem(400, "tools: this model's chat template has no place for them; leave them out")
    said = json.dumps([*messages, *tools], ensure_ascii=False)
    whole(said, "messages")
    served.prompts.possible(sum(len(turn["content"]) for turn in messages), "messages")
    ids = await beside_the_loop(len(said), lambda: conversation_ids(served.tokenizer, template, messages, tools))
    return served.prompts.fitting(ids, "messages"), () if served.chat_template else (PLAIN_STOP,)


def conversation_ids(
    tokenizer: CodeTokenizer, template: str, messages: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
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

    def safe(value: str) -> str:
        return name.sub(marked, value)

    specials = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    text = conversation(template, _mapped(list(messages), safe), specials, _mapped(list(tools), safe))
    ids: list[int] = []
    for number, part in enumerate(re.split(f"{opening}(\\d+)\ue001", text)):
        ids += tokenizer.encode(found[int(part)]) if number % 2 else tokenizer.encode_prompt(part)
    return ids


def named_in(template: str) -> set[str]:
    """The variables that a template takes; none of one that is no template."""
    from jinja2 import TemplateSyntaxError, meta

    environment = _environment()
    try:
        return set(meta.find_undeclared_variables(environment.parse(template)))
    except TemplateSyntaxError:
        return set()


def conversation(
    template: str, messages: Sequence[Turn], specials: Mapping[str, str], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The text of a conversation up to where the assistant speaks; the template comes with the model: sandboxed.

    Raises:
        ValueError: the template refuses the messages.
    """
    from jinja2 import TemplateError

    given = {"messages": list(messages), "tools": list(tools) or None, "add_generation_prompt": True, **specials}
    try:
        return str(_environment().from_string(template).render(**given))
    except TemplateError as error:
        raise ValueError(f"messages: the model's chat template refuses them: {error}") from None


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(f"messages: {message}")

    loops = ["jinja2.ext.loopcontrols"]  # as in transformers' own rendering
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=loops)
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **more: json.dumps(value, ensure_ascii=False, **more)
    return environment


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(one, change) for key, one in value.items()}
    return [_mapped(one, change) for one in value] if isinstance(value, list) else value
