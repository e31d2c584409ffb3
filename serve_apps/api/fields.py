"""Fields of requests: each is honoured, harmless or refused, and what is none of them is refused too.

A field that changes an answer is never left alone: a client that asks for it would not know. Which fields of which body
are what stands in ``FIELDS.md`` beside this file, made from these classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_apps.api.errors import Problem
from starloom.tokenizer import CodeTokenizer

StopText = Annotated[str, Field(max_length=256)]
Stop = Annotated[list[StopText], Field(max_length=16)]
StopIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)]
Bias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
Nothing: tuple[Any, ...] = (None, "", [], {}, False)  # values that ask for nothing, of whatever field


class Fields(BaseModel):
    """A body or a part of one. Its declared fields are honoured.

    `HARMLESS` fields change no answer of ours and are left alone. `REFUSED` ones are known and not built: they may come
    with a value that asks for nothing, one of `Nothing` or of those that stand beside the name.
    """

    model_config = ConfigDict(extra="forbid")
    HARMLESS: ClassVar[frozenset[str]] = frozenset()
    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def harmless(cls) -> frozenset[str]:
        """The names of this class and of those that it extends."""
        return frozenset[str]().union(*(vars(kind).get("HARMLESS", ()) for kind in cls.__mro__))

    @classmethod
    def refused(cls) -> dict[str, tuple[Any, ...]]:
        """As `harmless`, with the values that ask for nothing."""
        found: dict[str, tuple[Any, ...]] = {}
        for kind in reversed(cls.__mro__):
            found |= vars(kind).get("REFUSED", {})
        return found

    @classmethod
    def honoured(cls) -> list[str]:
        """The names as clients send them, in the order in which they stand here."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="before")
    @classmethod
    def _understood(cls, values: Any) -> Any:
        return understood(cls, values)


def understood(kind: type[Fields], values: Any) -> Any:
    """The honoured fields among a body's values; what is no object is left to who reads it.

    Raises:
        ValueError: a field is refused, or known to nobody.
    """
    if not isinstance(values, dict):
        return values
    harmless, refused, honoured = kind.harmless(), kind.refused(), set(kind.honoured())
    left = {}
    for name, value in values.items():
        if name in honoured:
            left[name] = value
        elif name in refused:
            if not any(value == nothing and type(value) is type(nothing) for nothing in Nothing + refused[name]):
                raise ValueError(f"{name}: is not supported; leave it out")
        elif name not in harmless:
            raise ValueError(f"{str(name)[:64]}: is no field that is known here; leave it out")
    return left


def biases(tokenizer: CodeTokenizer, bias: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """The ids and what is added to their logits; `Problem` for an id that is none."""
    made = []
    for name, value in (bias or {}).items():
        if not name.isascii() or not name.isdigit() or int(name) >= tokenizer.size:
            raise Problem(400, f"logit_bias: {name[:32]!r} is no id; use 0 to {tokenizer.size - 1}")
        made.append((int(name), value))
    return tuple(made)


def ids_in(tokenizer: CodeTokenizer, name: str, ids: list[int] | None) -> frozenset[int]:
    """The ids; `Problem` where one is none of the tokenizer's."""
    if any(token >= tokenizer.size for token in ids or ()):
        raise Problem(400, f"{name}: ids must lie in 0..{tokenizer.size - 1}")
    return frozenset(ids or ())


@dataclass(frozen=True)
class Repetition:
    """A repetition penalty (1: none), and over how many of the last tokens (0: all)."""

    penalty: float
    window: int


def repetition_of(penalty: float | None, last: int | None) -> Repetition:
    """llama.cpp's and Ollama's `repeat_penalty` and `repeat_last_n`: 64 where nothing is said, -1 is all, 0 is none."""
    back = 64 if last is None else last
    if back == 0 or penalty in (None, 1.0):
        return Repetition(1.0, 0)
    return Repetition(penalty or 1.0, max(0, back))


def words(stop: str | list[str] | None) -> tuple[str, ...]:
    """Stop strings, of one or several; empty ones stop nothing."""
    return tuple(filter(None, [stop] if isinstance(stop, str) else stop or ()))
