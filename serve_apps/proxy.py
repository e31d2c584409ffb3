"""What Ray Serve's proxies do besides: name a request's session, and answer one that lost its replica.

`LostReplicas` says it as clients of the dialect read it: Serve's own proxy answers nothing, or 503 with a line of text.
What a replica tells of itself is passed on.
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names `middlewares` on the nodes of the cluster; `starloom serve` sets it
for a Ray that it starts itself.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_apps.api.app import DIALECTS
from serve_apps.api.errors import Problem
from serve_apps.routing import Sessions

RETRY_SECONDS = 2  # a replica is back before long
UNAVAILABLE = 503  # with a line of text; where a replica is lost Serve's proxy says nothing at all


def middlewares() -> list[Middleware]:
    """What Serve puts before its proxy."""
    return [Middleware(LostReplicas), Middleware(Sessions)]


class LostReplicas:
    """ASGI middleware: 503 with Retry-After, in the dialect's words, where the proxy has none or its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; its answer may be replaced as long as nothing of it has been sent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = lost = gone = False

        async def received() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def sent(message: Message) -> None:
            nonlocal begun, lost
            if message["type"] == "http.response.start" and not begun:
                lost = _is_proxys_own(message)
            if not lost:
                begun = True
                await send(message)

        await self._app(scope, received, sent)
        if not begun and not gone:
            problem = Problem(503, "the server lost what was computing this answer; ask again", RETRY_SECONDS)
            await DIALECTS.of(scope["path"]).answer(problem)(scope, receive, send)


def _is_proxys_own(message: Message) -> bool:
    headers = {name.lower(): value for name, value in message.get("headers", ())}
    text = headers.get(b"content-type", b"text/plain").startswith(b"text/plain")
    return bool(message["status"] == UNAVAILABLE and text)
