"""Streams: the first token at once, later ones together when many clients stream, failures as a last line."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from serve_apps.api.errors import Problem, shaped
from serve_apps.engine.request import Engine

MANY_STREAMS = 8
PAUSE_SECONDS = 0.15  # between two chunks of one stream while many run: each chunk costs the proxies as much as a token


def sse(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def streamed(
    path: str, engine: Engine, lines: AsyncIterator[str], media_type: str = "text/event-stream"
) -> StreamingResponse:
    """The response of these lines."""
    return StreamingResponse(_together(engine, _ending_with_error(path, lines)), media_type=media_type)


async def _together(engine: Engine, lines: AsyncIterator[str]) -> AsyncIterator[str]:
    held, last = "", 0.0
    async for line in lines:
        held += line
        now = time.monotonic()
        if engine.load.running < MANY_STREAMS or now - last >= PAUSE_SECONDS:
            yield held
            held, last = "", now
    if held:
        yield held


async def _ending_with_error(path: str, lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """A failure after the head has been sent becomes the last line, in the path's dialect."""
    try:
        async for line in lines:
            yield line
    except Problem as problem:
        body = shaped(path, problem)[1]
        yield json.dumps(body, ensure_ascii=False) + "\n" if path.startswith("/api/") else sse(body)
