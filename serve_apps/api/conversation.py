"""What people and models say to one another, as every dialect of chat has it: roles, texts, tools, calls."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from serve_apps.api.fields import Fields

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
MOST_TURNS = 1000


class Part(Fields):
    """A part of a turn's content, which is text."""

    HARMLESS = frozenset({"cache_control", "annotations", "citations"})
    type: str
    text: str = ""


class Function(Fields):
    """What a tool is called by, what it does, and the schema of its arguments."""

    HARMLESS = frozenset({"strict"})
    name: str = Field(max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Fields):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: Function


class CalledFunction(Fields):
    """A function with its arguments, as JSON text or, as Ollama has it, as an object."""

    HARMLESS = frozenset({"index"})
    name: str
    arguments: str | dict[str, Any] = "{}"


class Call(Fields):
    """A call that the model made."""

    HARMLESS = frozenset({"type", "index"})
    id: str | None = None
    function: CalledFunction


class Message(Fields):
    """One turn; `content` may be a list of text parts."""

    HARMLESS = frozenset({"refusal", "annotations", "thinking", "reasoning_content", "reasoning", "metadata"})
    REFUSED = {"audio": (), "images": (), "function_call": ()}
    role: Role
    content: str | list[Part] | None = ""
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None

    def plain(self) -> dict[str, Any]:
        """What a template takes: role and text, and the calls where there are some.

        Raises:
            ValueError: a part is no text.
        """
        made: dict[str, Any] = {"role": self.role, "content": plain_text(self.content)}
        named = self.name or self.tool_name
        made |= {"name": named} if named else {}
        made |= {"tool_call_id": self.tool_call_id} if self.tool_call_id else {}
        if self.tool_calls:
            made["tool_calls"] = [
                {
                    "id": call.id or "",
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
                }
                for call in self.tool_calls
            ]
        return made


def plain_text(content: str | Sequence[Part] | None) -> str:
    """The text of a turn.

    Raises:
        ValueError: a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "input_text", "output_text"):
            raise ValueError(f"messages: hold a part of type {part.type[:32]!r}; this model reads text alone")
    return "".join(part.text for part in content)


def plain_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Tools as templates take them."""
    return [tool.model_dump(exclude_none=True) for tool in tools or ()]


def _arguments(value: str | Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
