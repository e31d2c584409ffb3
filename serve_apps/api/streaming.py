"""Streams: chunks of server-sent events or lines, and failures as a last line."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse

from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.errors import Problem


def streamed(dialect: Dialect, chunks: AsyncIterator[str]) -> StreamingResponse:
    """The response of these chunks, each of whole lines; a failure on the way is told in the dialect's words."""
    return StreamingResponse(_ending_with_error(dialect, chunks), media_type=dialect.media_type)


async def _ending_with_error(dialect: Dialect, chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield chunk
    except Problem as problem:
        yield dialect.line(dialect.shape(problem)[1])
