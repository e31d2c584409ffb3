"""Streams: chunks of server-sent events or lines, and failures as a last line."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from serve_apps.api.errors import Problem, shaped


def sse(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def streamed(path: str, chunks: AsyncIterator[str], media_type: str = "text/event-stream") -> StreamingResponse:
    """The response of these chunks, each of whole lines."""
    return StreamingResponse(_ending_with_error(path, chunks), media_type=media_type)


async def _ending_with_error(path: str, chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """A failure after the head has been sent becomes the last line, in the path's dialect."""
    try:
        async for chunk in chunks:
            yield chunk
    except Problem as problem:
        body = shaped(path, problem)[1]
        yield json.dumps(body, ensure_ascii=False) + "\n" if path.startswith("/api/") else sse(body)
