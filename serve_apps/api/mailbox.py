"""Events on their way from an engine's thread to the event loop, with as few wakings as readers need."""

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from serve_apps.engine.request import Engine, Event

FEW_STREAMS = 8  # below, every token is sent on as it comes
# A chunk costs the proxy and the replica more than a token costs the engine: all streams together send so many a second
CHUNKS_PER_SECOND = 64
LONGEST_PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Arrived:
    """An event, and when the engine gave it (`time.perf_counter`)."""

    event: Event
    at: float


class Mailbox:
    """One request's events: `put` on the engine's thread, `take` on the loop.

    The reader is woken by the first event and the last, and between them when a pause has passed that grows with the
    number of running requests; a reader who does not stream is woken by the last alone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine, *, streaming: bool) -> None:
        self._loop, self._engine, self._streaming = loop, engine, streaming
        self._arrived: deque[Arrived] = deque()
        self._ready = asyncio.Event()
        self._woken = 0.0

    def put(self, event: Event) -> None:
        """Take an event in."""
        now = time.perf_counter()
        self._arrived.append(Arrived(event, now))
        if event.finish or (self._streaming and now - self._woken >= self._pause()):
            self._woken = now
            with suppress(RuntimeError):  # the loop has closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[Arrived]:
        """All that has come, at least one, the last event last."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._arrived:  # else the waking came for what the last call has taken along
                return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def _pause(self) -> float:
        running = self._engine.load.running
        return 0.0 if running < FEW_STREAMS else min(running / CHUNKS_PER_SECOND, LONGEST_PAUSE_SECONDS)
