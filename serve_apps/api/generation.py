"""From the engine's thread to a coroutine, and away when the client goes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from serve_apps.engine.request import Engine, Event, Request, Sampling


class GenerationError(Exception):
    """The engine could not finish a request."""


@dataclass(frozen=True)
class Completion:
    """A finished answer."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish: str


async def events_of(engine: Engine, prompt: list[int], sampling: Sampling) -> AsyncIterator[Event]:
    """Events of one request; leaving the loop early (a client gone) cancels it in the engine."""
    arrived: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def hand_over(event: Event) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, event)

    request = Request(prompt, sampling, hand_over)
    engine.submit(request)
    try:
        while True:
            event = await arrived.get()
            if event.finish in ("error", "cancelled"):
                raise GenerationError(f"generation ended: {event.finish}")
            yield event
            if event.finish:
                return
    finally:
        request.cancel()


async def complete(engine: Engine, prompt: list[int], sampling: Sampling) -> Completion:
    """The whole answer."""
    events = [event async for event in events_of(engine, prompt, sampling)]
    tokens = [event.token for event in events if event.token is not None]
    return Completion(
        "".join(event.text for event in events), tokens, [e.logprob for e in events], str(events[-1].finish)
    )
