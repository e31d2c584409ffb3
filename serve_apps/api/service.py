"""The models of a replica, and the way of a request from a route to an engine and back."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request as HttpRequest
from starlette.requests import ClientDisconnect

from serve_apps.api.errors import Problem
from serve_apps.api.metrics import Meters
from serve_apps.api.prompts import FimOrder
from serve_apps.engine.request import Engine, Event, Request, Sampling, Scored
from starloom.tokenizer import CodeTokenizer

DEADLINE_HEADER = "x-deadline-seconds"
T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A model that answers to `name`."""

    name: str
    engine: Engine
    tokenizer: CodeTokenizer
    fim_order: FimOrder = "psm"
    chat_template: str | None = None


@dataclass(frozen=True)
class Completion:
    """A finished answer; `prompt` has the scores of the prompt's tokens when they were asked for."""

    text: str
    scored: list[Scored]
    finish: str
    prompt: tuple[Scored, ...]

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; an empty answer is the least likely."""
        return sum(one.logprob for one in self.scored) / len(self.scored) if self.scored else float("-inf")


@dataclass(frozen=True)
class Caller:
    """Who asks, and until when an answer is of use (`time.monotonic`)."""

    user: str = ""
    deadline: float | None = None


@dataclass
class Service:
    """Several models behind one API; the first is meant when a request names none."""

    models: Mapping[str, Served]
    deadline_seconds: float | None = None
    meters: Meters = field(init=False)

    def __post_init__(self) -> None:
        self.meters = Meters({name: served.engine for name, served in self.models.items()})

    def model(self, name: str | None) -> Served:
        """A model by its name; `Problem` 404 when it is not served."""
        if not name:
            return next(iter(self.models.values()))
        found = self.models.get(name) or self.models.get(name.removesuffix(":latest"))
        if found is None:
            raise Problem(404, f"model: {name[:200]!r} is not served; use one of {', '.join(self.models)}")
        return found

    def caller(self, request: HttpRequest) -> Caller:
        """Who sent a request; its deadline is the header's or the service's."""
        asked = request.headers.get(DEADLINE_HEADER)
        try:
            seconds = self.deadline_seconds if asked is None else float(asked)
        except ValueError:
            raise Problem(400, f"{DEADLINE_HEADER}: is no number of seconds") from None
        deadline = None if seconds is None else time.monotonic() + seconds
        return Caller(getattr(request.state, "user", ""), deadline)

    async def events(
        self, served: Served, prompt: list[int], sampling: Sampling, caller: Caller
    ) -> AsyncIterator[Event]:
        """Events of one request; leaving the loop early (a client gone) cancels it in the engine.

        Raises:
            Problem: it was late before its first token, or the engine failed.
        """
        arrived: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, event)

        labels = (served.name, caller.user)
        first_meter, between_meter = self.meters.first.labels(*labels), self.meters.between.labels(*labels)
        request = Request(prompt, sampling, hand_over, caller.user, caller.deadline)
        started = last = time.perf_counter()
        served.engine.submit(request)
        tokens = 0
        try:
            while True:
                event = await arrived.get()
                if event.finish in ("error", "cancelled") or (event.finish == "deadline" and not tokens):
                    raise _failure(event)
                now = time.perf_counter()
                if event.scored is not None:
                    (between_meter if tokens else first_meter).observe(now - last)
                    tokens, last = tokens + 1, now
                if event.finish:
                    self.meters.whole.labels(*labels).observe(now - started)
                    self.meters.done.labels(*labels, event.finish).inc()
                yield event
                if event.finish:
                    return
        finally:
            request.cancel()

    async def complete(self, served: Served, prompt: list[int], sampling: Sampling, caller: Caller) -> Completion:
        """The whole answer."""
        events = [event async for event in self.events(served, prompt, sampling, caller)]
        scored = [event.scored for event in events if event.scored is not None]
        known = next((event.prompt for event in events if event.prompt), ())
        return Completion("".join(event.text for event in events), scored, str(events[-1].finish), known)


def _failure(event: Event) -> Problem:
    if event.finish == "deadline":
        return Problem(503, "the deadline passed before the first token; the server is busy", 2)
    return Problem(500, f"generation ended early: {event.finish}")


async def while_connected(request: HttpRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes (plain handlers are not told by the server)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def started(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events, the first awaited here: what is refused is refused before the answer's head is sent."""
    first = await anext(events)

    async def chained() -> AsyncIterator[Event]:
        try:
            yield first
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    return chained()


async def merged(streams: Sequence[AsyncIterator[Event]]) -> AsyncIterator[tuple[int, Event]]:
    """Events of several streams as they come, each with its stream's number."""
    pending = {asyncio.ensure_future(anext(stream)): number for number, stream in enumerate(streams)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda one: pending[one]):
                number = pending.pop(task)
                event = task.result()
                if not event.finish:
                    pending[asyncio.ensure_future(anext(streams[number]))] = number
                yield number, event
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
