"""To which replica a request goes: to the one that knows its beginning already, unless that one has too much to do.

Requests that begin alike, such as one editor's from key to key, share a prefix that a replica has in its cache. Ray
Serve's `ConsistentHashRouter` sends a session to the replica that owns its place on a ring; a request without
``X-Session-Id`` belongs to the session of its key and its body's first bytes. The loads are bounded, as by Mirrokni,
Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads, 2018: what would be too much for one goes to the next.
"""

import asyncio
import hashlib
import math
from collections import deque
from contextlib import suppress
from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import ReplicaID
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION_HEADER = b"x-session-id"
BEGINNING = 2048  # bytes of a long body that tell its session: less than a prompt that is worth finding
SHORT = 256  # bytes of a body whose prompt is as soon computed as found
PATIENCE_SECONDS = 0.25  # for the first bytes: a request that is sent by half goes on as it is
UNEVEN = 1.25  # times the mean of requests under way: so many a replica may have
FEW = 4  # and so many in any case
PROBE_SECONDS = 2.0  # for a replica to say how busy it is; with Serve's tenth a busy one would lose what it knows


class PrefixRouter(ConsistentHashRouter):
    """Ray Serve's ring of sessions with bounded loads."""

    queue_len_response_deadline_s = max_queue_len_response_deadline_s = PROBE_SECONDS

    def initialize_state(self, **settings: Any) -> None:
        """Every replica may take what the others have no room for."""
        super().initialize_state(**{"num_fallback_replicas": 1 << 16, **settings})

    def _lookup_ranked_replicas(self, routing_key: str) -> list[ReplicaID]:
        ranked: list[ReplicaID] = super()._lookup_ranked_replicas(routing_key)
        return evened(ranked, {one: self.replica_queue_len_cache.get(one) or 0 for one in ranked})


def evened(ranked: list[ReplicaID], loads: dict[ReplicaID, int]) -> list[ReplicaID]:
    """The same replicas, those with room for one more request first."""
    most = max(FEW, math.ceil(UNEVEN * (sum(loads.values()) + 1) / max(1, len(loads))))
    return sorted(ranked, key=lambda one: loads[one] >= most)  # a stable sort: the ring's order stays


def beginning_of(body: bytes) -> bytes:
    """What stays the same while a prompt is typed on: a power of two of bytes, between a quarter and half of a body."""
    return body if len(body) < SHORT else body[: min(BEGINNING, 1 << (len(body).bit_length() - 2))]


class Sessions:
    """ASGI middleware before Serve's proxy: names the session of a request that names none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its session."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = {name.lower().replace(b"_", b"-"): value for name, value in scope["headers"]}
        named = known.get(SESSION_HEADER, b"")
        others = [(k, v) for k, v in scope["headers"] if k.lower().replace(b"_", b"-") != SESSION_HEADER]
        ahead = _Ahead(receive)
        if scope["method"] == "POST" and not (named and named.isascii()):
            who = known.get(b"authorization", b"") + known.get(b"x-api-key", b"")
            beginning = beginning_of(await ahead.body(2 * BEGINNING))
            named = hashlib.blake2b(who + b"\0" + beginning, digest_size=16).hexdigest().encode()
        session = [(SESSION_HEADER, named)] if named and named.isascii() else []
        await self._app({**scope, "headers": others + session}, ahead, send)


class _Ahead:
    """A `receive` whose first messages were looked at before it is called."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen: deque[Message] = deque()
        self._asked: asyncio.Task[Message] | None = None  # a message that was waited for too long, and still is

    async def __call__(self) -> Message:
        if self._seen:
            return self._seen.popleft()
        if self._asked is not None:
            asked, self._asked = self._asked, None
            try:
                return await asked
            except asyncio.CancelledError:
                asked.cancel()
                raise
        return await self._receive()

    async def body(self, size: int) -> bytes:
        """As many of the body's first bytes as there are, and come in time."""
        body = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(body) < size:
                    self._asked = asyncio.ensure_future(self._receive())
                    message = await asyncio.shield(self._asked)
                    self._asked = None
                    self._seen.append(message)
                    body += message.get("body", b"")
                    if not message.get("more_body", False):
                        break
        return body[:size]
