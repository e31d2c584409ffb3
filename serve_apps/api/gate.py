"""The gate before all routes of all applications: keys, request sizes, rates."""

import asyncio
import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import parse_qs

from pydantic import Field, field_validator
from ray.exceptions import TaskCancelledError
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_apps.api.errors import Problem
from serve_apps.api.keys import Keys
from serve_apps.api.rates import Limiter, LocalLimiter
from starloom.config import Config


class GateConfig(Config):
    """Who may come, and how much.

    Names of users by their keys, and a file of ``name:key`` lines which is read anew when it changes (neither: everyone
    may come); bytes of a request, requests per minute and key over all replicas. `open`: everyone may, and it is meant.
    """

    keys: dict[str, str] = {}
    keys_file: str | None = None
    open: bool = False
    largest_request_bytes: int = Field(4 << 20, gt=0)
    requests_per_minute: int | None = Field(None, gt=0)
    body_seconds: float = Field(20.0, gt=0)  # that a request's body may take to come
    # pages of these may ask from a browser: scheme://host[:port], or * for every one
    allow_origins: tuple[str, ...] = ()
    # of those that clients ask without a key they could send: llm-vscode sends none with /overlap
    open_paths: tuple[Literal["/overlap", "/corpus", "/search"], ...] = ()

    @field_validator("allow_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; write scheme://host or scheme://host:port, or *")
        return origins


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", re.IGNORECASE)
_EXPOSED = ("Retry-After", "X-Request-Id")


def guard(app: Starlette, config: GateConfig, answer: Callable[[str, Problem], ASGIApp], **more: Any) -> None:
    """Put the gate before an application, and before it the answers to browsers that ask whether they may.

    `more` are further arguments of `Gate`.
    """
    app.add_middleware(Gate, config=config, answer=answer, **more)
    if config.allow_origins:
        # outermost: a browser asks without a key, and a refusal must be readable to the page as well
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.allow_origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=list(_EXPOSED),
            max_age=600,
        )


class Gate:
    """ASGI middleware; puts the user's name into the scope's state as `user`.

    A key comes as a bearer token, as `X-Api-Key`, or as the password of HTTP's basic scheme, which browsers ask for by
    themselves. `answer` makes a refusal of a path, `refused` is told the user and the status of each. `open_paths` need
    no key, nor does a GET of one of `open_pages`. Below the path `untyped` a body is JSON whatever its type says.
    `limiter` counts the requests of each user, here and elsewhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: GateConfig,
        answer: Callable[[str, Problem], ASGIApp],
        open_paths: frozenset[str] = frozenset(),
        open_pages: frozenset[str] = frozenset(),
        refused: Callable[[str, int], None] = lambda user, status: None,
        untyped: str = "",
        limiter: Limiter | None = None,
    ) -> None:
        self._app, self._config, self._answer, self._refused = app, config, answer, refused
        self._untyped = untyped
        self._open, self._pages = open_paths | set(config.open_paths), open_pages
        self._keys = Keys(config.keys, config.keys_file)
        self._limiter = limiter or LocalLimiter(config.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        user, path = "", scope["path"]
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            page = scope["method"] == "GET" and path in self._pages
            if path not in self._open and not page:
                user = self._user(headers, scope.get("query_string", b"") if path == "/overlap" else b"")
                await self._rate(user)
            self._announced_size(headers)
            scope.setdefault("state", {})["user"] = user
            body = await self._body(receive)
            if body is not None:
                await self._app(self._typed(scope, headers), _given(body, receive), send)
        except Problem as problem:
            self._refused(user, problem.status)
            await self._answer(path, problem)(scope, receive, send)

    def _user(self, headers: Mapping[bytes, bytes], query: bytes = b"") -> str:
        if not self._keys.asked_for:
            return ""
        # a client that can send no header may name its key in the URL
        named = parse_qs(query.decode("latin-1")).get("key", [""])[0].encode("latin-1")
        user = self._keys.name(_key(headers) or named)
        if user is None:
            raise Problem(401, "the API key is missing or unknown; send it as 'Authorization: Bearer KEY'")
        return user

    async def _rate(self, user: str) -> None:
        per_minute = self._config.requests_per_minute
        if per_minute is None:
            return
        wait = await self._limiter.seconds_to_wait(user)
        if wait:
            raise Problem(429, f"more than {per_minute} requests per minute; slow down", int(wait) + 1)

    def _announced_size(self, headers: Mapping[bytes, bytes]) -> None:
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._config.largest_request_bytes:
            raise self._too_large()

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, before anything of the application waits for it; None when the client has gone."""
        parts: list[bytes] = []
        taken = 0
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    try:
                        message = await receive()
                    except TaskCancelledError:  # so Ray Serve tells that the client has gone
                        return None
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    taken += len(parts[-1])
                    if taken > self._config.largest_request_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            seconds = f"{self._config.body_seconds:g}"
            raise Problem(408, f"the request's body has not come within {seconds} seconds") from None

    def _typed(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Scope:
        """The scope, with JSON for a content type where clients leave it out, unless another site's page asks."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        ours = not origin or "*" in self._config.allow_origins or origin in self._config.allow_origins
        if not (self._untyped and scope["path"].startswith(self._untyped) and ours):
            return scope
        others = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-type"]
        return {**scope, "headers": [*others, (b"content-type", b"application/json")]}

    def _too_large(self) -> Problem:
        return Problem(413, f"the request is larger than {self._config.largest_request_bytes} bytes; send less")


def _given(body: bytes, receive: Receive) -> Receive:
    """A body that has come already, and after it whatever the connection says."""
    told = False

    async def given() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return given


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    given = headers.get(b"x-api-key") or headers.get(b"authorization", b"")
    scheme, _, value = given.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2].strip()
        except ValueError:
            return b""
    return given.strip()
