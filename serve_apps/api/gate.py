"""The gate before all routes of all applications: keys, request sizes, rates."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs

from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_apps.api.errors import Problem
from starloom.config import Config


class GateConfig(Config):
    """Names of users by their keys (none: everyone may come), bytes of a request, requests per minute and key."""

    keys: dict[str, str] = {}
    largest_request_bytes: int = Field(4 << 20, gt=0)
    requests_per_minute: int | None = Field(None, gt=0)
    # of those that clients ask without a key they could send: llm-vscode sends none with /overlap
    open_paths: tuple[Literal["/overlap", "/corpus", "/search"], ...] = ()


@dataclass
class Bucket:
    """A token bucket: `rate` per second, `size` at once."""

    rate: float
    size: float
    _level: float = field(init=False)
    _at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._level = self.size

    def seconds_to_wait(self) -> float:
        """Zero, and one is taken; or how long until there is one."""
        now = time.monotonic()
        self._level, self._at = min(self.size, self._level + (now - self._at) * self.rate), now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self.rate


class Gate:
    """ASGI middleware; puts the user's name into the scope's state as `user`.

    A key comes as a bearer token, as `X-Api-Key`, or as the password of HTTP's basic scheme, which browsers ask for by
    themselves. `answer` makes a refusal of a path, `refused` is told the user and the status of each. `open_paths` need
    no key, nor does a GET of one of `open_pages`.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: GateConfig,
        answer: Callable[[str, Problem], ASGIApp],
        open_paths: frozenset[str] = frozenset(),
        open_pages: frozenset[str] = frozenset(),
        refused: Callable[[str, int], None] = lambda user, status: None,
    ) -> None:
        self._app, self._config, self._answer, self._refused = app, config, answer, refused
        self._open, self._pages = open_paths | set(config.open_paths), open_pages
        self._digests = {hashlib.sha256(key.encode()).digest(): name for key, name in config.keys.items()}
        self._buckets: dict[str, Bucket] = {}

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
                self._rate(user)
            self._announced_size(headers)
            scope.setdefault("state", {})["user"] = user
            await self._app(scope, self._counted(receive), send)
        except Problem as problem:
            self._refused(user, problem.status)
            await self._answer(path, problem)(scope, receive, send)

    def _user(self, headers: Mapping[bytes, bytes], query: bytes = b"") -> str:
        if not self._digests:
            return ""
        # a client that can send no header may name its key in the URL
        named = parse_qs(query.decode("latin-1")).get("key", [""])[0].encode("latin-1")
        digest = hashlib.sha256(_key(headers) or named).digest()
        # all are compared, each in constant time: the time tells nothing about any key
        found = [name for known, name in self._digests.items() if hmac.compare_digest(known, digest)]
        if not found:
            raise Problem(401, "the API key is missing or unknown; send it as 'Authorization: Bearer KEY'")
        return found[0]

    def _rate(self, user: str) -> None:
        per_minute = self._config.requests_per_minute
        if per_minute is None:
            return
        bucket = self._buckets.setdefault(user, Bucket(per_minute / 60, per_minute))
        wait = bucket.seconds_to_wait()
        if wait:
            raise Problem(429, f"more than {per_minute} requests per minute; slow down", int(wait) + 1)

    def _announced_size(self, headers: Mapping[bytes, bytes]) -> None:
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._config.largest_request_bytes:
            raise self._too_large()

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._config.largest_request_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> Problem:
        return Problem(413, f"the request is larger than {self._config.largest_request_bytes} bytes; send less")


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
