"""What an answer must be, in the words of each dialect, as a grammar."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from serve_apps.api.fields import Fields
from serve_apps.engine.grammar import Grammar

Schema = dict[str, Any] | bool
ANY_OBJECT = Grammar("json", '{"type": "object"}')


class NamedSchema(Fields):
    """OpenAI's `json_schema`; its schema is always kept to, strict or not."""

    HARMLESS = frozenset({"name", "description", "strict"})
    schema_: Schema = Field(True, alias="schema")


class ResponseFormat(Fields):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    def grammar(self) -> Grammar | None:
        """The grammar; none for text."""
        if self.type == "json_schema":
            return of_schema(self.json_schema.schema_ if self.json_schema else True)
        return ANY_OBJECT if self.type == "json_object" else None


class StructuredOutputs(Fields):
    """vLLM's `structured_outputs`, of which one is asked for."""

    HARMLESS = frozenset({"disable_fallback"})
    REFUSED = {
        "structural_tag": (),
        "disable_additional_properties": (),
        "disable_any_whitespace": (),
        "whitespace_pattern": (),
    }
    json_: str | Schema | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1, max_length=1000)
    grammar: str | None = None
    json_object: bool | None = None

    def wanted(self) -> list[Grammar]:
        """Each that is asked for."""
        found = []
        if self.json_ is not None:
            found.append(Grammar("json", self.json_) if isinstance(self.json_, str) else of_schema(self.json_))
        if self.regex is not None:
            found.append(Grammar("regex", self.regex))
        if self.choice is not None:
            found.append(Grammar.one_of(self.choice))
        if self.grammar is not None:
            found.append(Grammar("grammar", self.grammar))
        return [*found, ANY_OBJECT] if self.json_object else found


def of_schema(schema: Schema) -> Grammar:
    """The grammar of a JSON schema."""
    return Grammar("json", json.dumps(schema))


def only(found: list[Grammar]) -> Grammar | None:
    """The one that is asked for.

    Raises:
        ValueError: several are.
    """
    if len(found) > 1:
        raise ValueError("response_format: an answer can be kept to one format at a time; ask for one")
    return found[0] if found else None


def of_tgi(value: Mapping[str, Any]) -> Grammar:
    """text-generation-inference's `grammar`.

    Raises:
        ValueError: it is none.
    """
    kind, text = value.get("type"), value.get("value")
    if kind in ("json", "json_object") and isinstance(text, dict | str):
        return Grammar("json", text) if isinstance(text, str) else of_schema(text)
    if kind == "json_schema" and isinstance(text, dict):
        return of_schema(text.get("schema", text))
    if kind == "regex" and isinstance(text, str):
        return Grammar("regex", text)
    raise ValueError("grammar: is none; send {type: json, value: SCHEMA} or {type: regex, value: TEXT}")


def of_ollama(value: str | Schema | None) -> Grammar | None:
    """Ollama's `format`: "json", or a schema.

    Raises:
        ValueError: it is neither.
    """
    if value in (None, ""):
        return None
    if value == "json":
        return ANY_OBJECT
    if isinstance(value, str):
        raise ValueError(f"format: {value[:32]!r} is none; send 'json' or a JSON schema")
    assert value is not None
    return of_schema(value)
