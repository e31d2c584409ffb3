"""What a dialect of the API is: its routes, the shape of its errors, a stream's last line, and its open paths."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from serve_apps.api.errors import RETRY_SECONDS, Problem
from serve_apps.api.service import Service

Body = Mapping[str, Any]


def sse(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def named_event(name: str, value: Any) -> str:
    """One server-sent event with a name."""
    return f"event: {name}\n{sse(value)}"


@dataclass(frozen=True)
class Dialect:
    """One of the languages that clients speak; each is a module of this folder that exports ``DIALECT``."""

    name: str
    router: Callable[[Service], APIRouter]
    paths: tuple[str, ...]  # that are answered in its words; one that ends in * stands for all below
    shape: Callable[[Problem], tuple[int, Body]]  # status and body of an error
    line: Callable[[Any], str] = sse  # an error after the head of a stream has gone
    media_type: str = "text/event-stream"
    open_paths: frozenset[str] = frozenset()  # answered without a key
    nested: tuple[str, ...] = ()  # fields whose inner field an error names

    def owns(self, path: str) -> bool:
        """Whether errors at a path are told in its words."""
        return any(path.startswith(own[:-1]) if own.endswith("*") else path == own for own in self.paths)

    def answer(self, problem: Problem) -> JSONResponse:
        """An error as its clients understand it. Refusals that pass say when to come again."""
        status, body = self.shape(problem)
        wait = problem.retry_after if problem.retry_after is not None else RETRY_SECONDS
        headers = {"Retry-After": str(wait)} if status in (429, 503) else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body, status, headers)


@dataclass(frozen=True)
class Dialects:
    """All that an application speaks; the first one's words are used where no other owns the path."""

    known: Sequence[Dialect]

    def of(self, path: str) -> Dialect:
        """The dialect of a path: who names it, before who owns all below a part of it."""
        naming = next((one for one in self.known if path in one.paths), None)
        return naming or next((one for one in self.known if one.owns(path)), self.known[0])

    @property
    def open_paths(self) -> frozenset[str]:
        """Paths of all that are answered without a key."""
        return frozenset(path for one in self.known for path in one.open_paths)
