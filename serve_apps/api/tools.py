"""Calls of tools in what a chat model writes, in the two ways that templates teach."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serve_apps.engine.grammar import Grammar

OPENING, CLOSING = "<tool_call>", "</tool_call>"
Choice = Literal["auto", "none", "required"] | Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """A function's name and its arguments as JSON text."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    def told(self, **more: Any) -> dict[str, Any]:
        """In OpenAI's words."""
        return {**more, "id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def forced(tools: Sequence[Mapping[str, Any]], choice: Choice | None) -> Grammar | None:
    """The grammar of an answer that must be a call: of any of the tools, or of the one that is named.

    Raises:
        ValueError: no tool has that name.
    """
    if choice in (None, "auto", "none"):
        return None
    wanted = None if isinstance(choice, str) else choice.get("function", choice).get("name")
    named = [tool["function"] for tool in tools if wanted in (None, tool["function"]["name"])]
    if not named:
        raise ValueError(f"tool_choice: no tool is called {str(wanted)[:64]!r}")
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": one["name"]}, "arguments": one.get("parameters") or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in named
    ]
    return Grammar("json", json.dumps({"anyOf": calls}))


def calls_in(text: str, names: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """What an answer says besides, and the calls of tools of these names in it.

    Calls stand between tags (as Hermes and Qwen write them), or the whole answer is one (Llama).
    """
    found = [_call(part, names) for part in re.findall(f"{OPENING}(.*?)(?:{CLOSING}|$)", text, re.DOTALL)]
    calls = [call for call in found if call is not None]
    if calls and len(calls) == len(found):
        return text.partition(OPENING)[0].rstrip(), calls
    whole = _call(text, names)
    return ("", [whole]) if whole else (text, [])


def _call(text: str, names: Sequence[str]) -> ToolCall | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some models write JSON in JSON
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    return ToolCall(value["name"], json.dumps(arguments))
