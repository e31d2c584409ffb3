"""The table of every field that the server's dialects know, from the classes that read them.

``python -m tests.docs.fields`` writes it anew.
"""

from collections.abc import Iterator
from typing import Any, get_args

from fastapi.routing import APIRoute

from serve_apps.api.app import DIALECTS
from serve_apps.api.fields import Fields
from tests.docs.rooms import ROOT

PAGE = ROOT / "serve_apps" / "api" / "FIELDS.md"
HEAD = """# Fields of requests

Every field that a request may have, by dialect. *Honoured*: it does what the dialect's own server does with it.
*Harmless*: taken, and changes no answer here. *Refused*: known, and answered with one line (400, or 422 in
text-generation-inference's dialect) unless its value asks for nothing: null, false, "", [], {} or what stands behind
it. What stands in no row is refused too, by its name.

Made from the classes by `python -m tests.docs.fields`.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_dialect(one.name, one.router(None)) for one in DIALECTS.known)  # type: ignore[arg-type]


def _dialect(name: str, router: Any) -> str:
    bodies: dict[type[Fields], list[str]] = {}
    for route in _routes(router):
        for kind in _kinds(route.body_field.field_info.annotation) if route.body_field else ():
            bodies.setdefault(kind, []).append(route.path)
    return f"\n## {name}\n" + "".join(_table(kind, sorted(set(paths))) for kind, paths in bodies.items())


def _routes(router: Any) -> Iterator[APIRoute]:
    for route in router.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            yield route
        elif hasattr(route, "original_router"):
            yield from _routes(route.original_router)


def _kinds(annotation: Any) -> Iterator[type[Fields]]:
    """Every class of fields in a type, and in the fields of those."""
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        yield annotation
        for inner in annotation.model_fields.values():
            yield from _kinds(inner.annotation)
    else:
        for part in get_args(annotation):
            yield from _kinds(part)


def _table(kind: type[Fields], paths: list[str]) -> str:
    refused = [
        f"`{name}`" + (f" ({', '.join(map(repr, values))})" if values else "")
        for name, values in sorted(kind.refused().items())
    ]
    rows = {
        "honoured": [f"`{name}`" for name in kind.honoured()],
        "harmless": [f"`{name}`" for name in sorted(kind.harmless())],
        "refused": refused,
    }
    text = "".join(f"| {name} | {', '.join(found)} |\n" for name, found in rows.items() if found)
    return f"\n### {kind.__name__}: {', '.join(f'`{path}`' for path in paths)}\n\n| | |\n|---|---|\n{text}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
