"""Frozen configs that forbid unknown keys, and TOML in and out of them.

This module imports neither Ray nor torch: validation and ``--help`` are instant.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from starloom import storage
from starloom.errors import UserError

_RUNTIME, _ADDED = "starloom_runtime", "starloom_added"


class Config(BaseModel):
    """Base of every config: immutable, and an unknown key is an error."""

    # defaults are validated too: `rate: float = 1` is 1.0 in a fingerprint, as it is once a job file was read
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, validate_default=True
    )

    def identity(self) -> dict[str, Any]:
        """The JSON-able settings that decide the result: everything but the ``runtime`` fields."""
        found: dict[str, Any] = _identity(self)
        return found


def runtime(default: Any, **options: Any) -> Any:
    """A field that changes how the work is done but not its result (worker counts, batch rows, layouts).

    Such fields are left out of the fingerprint, so that a change of them does not run a finished step again.
    """
    return Field(default, json_schema_extra={_RUNTIME: True}, **options)


def added(default: Any, **options: Any) -> Any:
    """A field that a config has gained since artifacts were made with it, whose default is what was done before.

    At its default it is left out of the fingerprint, so that those artifacts are found again.
    """
    return Field(default, json_schema_extra={_ADDED: True}, **options)


def _identity(value: Any) -> Any:
    if isinstance(value, BaseModel):
        settings = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            held = getattr(value, name)
            if not (extra.get(_RUNTIME) or (extra.get(_ADDED) and held == field.default)):
                settings[name] = _identity(held)
        return settings
    if isinstance(value, dict):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_identity(item) for item in value)
    if isinstance(value, Path):
        return str(value)
    return value


C = TypeVar("C", bound=BaseModel)


def validate(config_class: type[C], values: dict[str, Any], *, where: str) -> C:
    """Build a config, or raise a one-line `UserError` that names the place, the key, the value and the remedy."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_complaint(config_class, error)}") from None


def _first_complaint(config_class: type[BaseModel], error: ValidationError) -> str:
    details = error.errors(include_url=False)
    first = details[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location) or "the settings"
    if first["type"] == "extra_forbidden":
        known = _known_keys(config_class, first["loc"][:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known) or 'none'}"
        message = f"unknown key {key!r}; {remedy}"
    elif first["type"] == "missing":
        message = f"the key {key!r} is missing; add it"
    else:
        reason = first["msg"].removeprefix("Value error, ")
        shown = json.dumps(first["input"], default=str)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        message = f"{key} = {shown}: {reason}" if location else reason
    if len(details) > 1:
        message += f" (and {len(details) - 1} more)"
    return " ".join(message.split())


def _known_keys(config_class: Any, location: Iterable[int | str]) -> list[str]:
    current = config_class
    for part in location:
        if isinstance(part, int):
            continue
        classes = [c for c in _config_classes(current) if part in c.model_fields]
        if not classes:
            # pydantic puts the tag of a discriminated union into the location; it names no field
            continue
        current = classes[0].model_fields[part].annotation
    return sorted({name for c in _config_classes(current) for name in c.model_fields})


def _config_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is not None or isinstance(annotation, UnionType) or annotation is Union:
        return [found for argument in get_args(annotation) for found in _config_classes(argument)]
    return []


def read_toml(path: str | Path) -> dict[str, Any]:
    """Parse a TOML file, local or at a URL; a missing or malformed one is a one-line `UserError`."""
    try:
        return tomllib.loads(storage.read_bytes(str(path)).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a TOML file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the path of a TOML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; TOML files must be") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def parse_value(text: str) -> Any:
    """The value of a ``--set KEY=VALUE``: TOML where it parses as TOML, a plain string otherwise."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def set_key(settings: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in nested tables, in place.

    Raises:
        UserError: a parent is a value and no table.
    """
    *parents, last = dotted.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise UserError(f"--set {dotted}: {parent!r} is a value, not a table; set it as a whole")
    settings[last] = value


def to_toml(settings: dict[str, Any]) -> str:
    """Write plain settings (tables, lists, numbers, strings, booleans) as TOML. ``None`` values are left out."""
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items() if v is not None)
        return "{" + inner + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=True).replace("\x7f", "\\u007f")
