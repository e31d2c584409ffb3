"""The models of a replica, and the way of a request from a route to an engine and back."""

import asyncio
import datetime
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from fastapi import Request as HttpRequest
from prometheus_client import CollectorRegistry
from ray.exceptions import TaskCancelledError
from starlette.requests import ClientDisconnect

from serve_apps.api.errors import Problem
from serve_apps.api.events import ShownCounts
from serve_apps.api.mailbox import Mailbox
from serve_apps.api.metrics import AnswerMeters, Meters
from serve_apps.api.prompts import FimOrder, PromptBuilder
from serve_apps.api.traces import AnswerLine, trace_of
from serve_apps.attributor import Attributor, Wish
from serve_apps.engine.request import Engine, Event, Request, Sampling, Scored
from starloom.tokenizer import CodeTokenizer

DEADLINE_HEADER = "x-deadline-seconds"
SMALLEST_WINDOW = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A model that answers to `name`."""

    name: str
    engine: Engine
    tokenizer: CodeTokenizer
    fim_order: FimOrder = "psm"
    chat_template: str | None = None
    window: int | None = None  # none: the engine's

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer."""
        return (
            self.engine.context if self.window is None else max(SMALLEST_WINDOW, min(self.window, self.engine.context))
        )

    @cached_property
    def prompts(self) -> PromptBuilder:
        """From what clients send to ids that fit the model's window."""
        return PromptBuilder(self.tokenizer, self.context, self.fim_order)

    def within(self, window: int) -> "Served":
        """The same in a window of so many tokens, if that is smaller than the engine's."""
        return replace(self, window=window)

    def answer(self, prompt: list[int], asked: int | None = None) -> int:
        """How many tokens an answer may have: what is asked for, or what the window leaves."""
        left = self.context - len(prompt)
        return max(1, left if asked is None else min(asked, left))


@dataclass(frozen=True)
class Completion:
    """A finished answer; `prompt` has the scores of the prompt's tokens when they were asked for."""

    text: str
    scored: list[Scored]
    finish: str
    prompt: tuple[Scored, ...]
    cached: int = 0
    word: str = ""

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; an empty answer is the least likely."""
        return sum(one.logprob for one in self.scored) / len(self.scored) if self.scored else float("-inf")


@dataclass(frozen=True)
class Caller:
    """Who asks, until when an answer is of use (`time.monotonic`), and by which id they know their request."""

    user: str = ""
    deadline: float | None = None
    trace: str = ""


@dataclass
class Service:
    """Several models behind one API; the first is meant when a request names none."""

    models: Mapping[str, Served]
    deadline_seconds: float | None = None
    attributor: Attributor | None = None
    meters: Meters = field(init=False)
    shown: ShownCounts = field(init=False)
    since: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def __post_init__(self) -> None:
        self.meters = Meters({name: served.engine for name, served in self.models.items()})
        self.shown = ShownCounts(self.meters.registry)

    def model(self, name: str | None, *, exact: bool = False) -> Served:
        """A model by its name; `Problem` 404 when several are served and none has it.

        Where there is one, any name means it, since clients send names of their own, such as "tgi"; not where the name
        is to be `exact`.
        """
        if not name or (len(self.models) == 1 and not exact):
            return next(iter(self.models.values()))
        found = self.models.get(name) or self.models.get(name.removesuffix(":latest"))
        if found is None:
            raise Problem(404, f"model: {name[:200]!r} is not served; use one of {', '.join(self.models)}")
        return found

    def attribution(self, wish: Wish | None) -> Attributor | None:
        """What looks completions up, where a request wishes it; `Problem` 400 when there is no index."""
        if wish and self.attributor is None:
            raise Problem(400, "attribution: this server has no index; start it with --index RUN")
        return self.attributor if wish else None

    def failed(self) -> str:
        """What keeps an engine from its work; empty when nothing does."""
        told = ((name, served.engine.failure) for name, served in self.models.items())
        return "; ".join(f"{name}: {failure}" for name, failure in told if failure)

    @property
    def registries(self) -> list[CollectorRegistry]:
        """What is counted here."""
        return [self.meters.registry, *([self.attributor.registry] if self.attributor else [])]

    def caller(self, request: HttpRequest) -> Caller:
        """Who sent a request; its deadline is the header's or the service's.

        Raises:
            Problem: the deadline is no number.
        """
        asked = request.headers.get(DEADLINE_HEADER)
        try:
            seconds = self.deadline_seconds if asked is None else float(asked)
        except ValueError:
            raise Problem(400, f"{DEADLINE_HEADER}: is no number of seconds") from None
        deadline = None if seconds is None else time.monotonic() + seconds
        return Caller(getattr(request.state, "user", ""), deadline, trace_of(request.headers))

    async def batches(
        self, served: Served, prompt: list[int], sampling: Sampling, caller: Caller, *, streaming: bool = True
    ) -> AsyncGenerator[list[Event], None]:
        """Events of one request, as many at once as have come; leaving the loop early cancels it in the engine.

        A stream gets its first token at once; without `streaming` all come together at the end.

        Raises:
            Problem: it was late before its first token, or the engine failed.
        """
        mailbox = Mailbox(asyncio.get_running_loop(), served.engine, streaming=streaming)
        request = Request(prompt, sampling, mailbox.put, caller.user, caller.deadline, caller.trace)
        meters, line = AnswerMeters(self.meters, served.name, caller.user), AnswerLine(served.name, request)
        if sampling.grammar is not None:  # to compile it may take long
            await asyncio.to_thread(served.engine.prepare, sampling)
        served.engine.submit(request)
        try:
            while True:
                arrived = await mailbox.take()
                for one in arrived:
                    meters.observe(one.event, one.at)
                    line.observe(one.event, one.at)
                last = arrived[-1].event
                if last.finish in ("error", "cancelled") or (last.finish == "deadline" and not meters.tokens):
                    raise _failure(last)
                yield [one.event for one in arrived]
                if last.finish:
                    return
        finally:
            request.cancel()
            line.write()

    async def complete(self, served: Served, prompt: list[int], sampling: Sampling, caller: Caller) -> Completion:
        """The whole answer."""
        batches = self.batches(served, prompt, sampling, caller, streaming=False)
        return gathered([event async for batch in batches for event in batch])


def gathered(events: Sequence[Event]) -> Completion:
    """The whole answer of all its events."""
    scored = [event.scored for event in events if event.scored is not None]
    known = next((event.prompt for event in events if event.prompt), ())
    text, last = "".join(event.text for event in events), events[-1]
    return Completion(text, scored, str(last.finish), known, last.cached, last.word)


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
    with suppress(TaskCancelledError):  # so Ray Serve tells it
        while (await request.receive())["type"] != "http.disconnect":
            pass


def independent(sampling: Sampling, count: int) -> list[Sampling]:
    """The sampling of each of `count` choices; the first has the seed that was asked for.

    Seeds that follow one another would share draws between requests whose seeds follow one another too.
    """

    def seed(number: int) -> int:
        digest = hashlib.blake2b(f"{sampling.seed}:{number}".encode(), digest_size=8).digest()
        return sampling.seed if number == 0 else int.from_bytes(digest, "little") >> 1

    return [replace(sampling, seed=seed(number)) for number in range(count)]


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """All results; when one is refused or fails, or this is cancelled, the others are cancelled first."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def all_started(streams: Sequence[AsyncGenerator[list[Event], None]]) -> list[AsyncIterator[list[Event]]]:
    """`started` of each; when one is refused, none of the others goes on."""
    try:
        return await together(map(started, streams))
    except BaseException:
        for stream in streams:
            await stream.aclose()
        raise


async def started(batches: AsyncIterator[list[Event]]) -> AsyncIterator[list[Event]]:
    """The same events, the first awaited here: what is refused is refused before the answer's head is sent."""
    first = await anext(batches)

    async def chained() -> AsyncIterator[list[Event]]:
        try:
            yield first
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()  # type: ignore[attr-defined]

    return chained()


async def merged(streams: Sequence[AsyncIterator[list[Event]]]) -> AsyncIterator[tuple[int, list[Event]]]:
    """Events of several streams as they come, each batch with its stream's number."""
    pending = {asyncio.ensure_future(anext(stream)): number for number, stream in enumerate(streams)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda one: pending[one]):
                number = pending.pop(task)
                batch = task.result()
                if not batch[-1].finish:
                    pending[asyncio.ensure_future(anext(streams[number]))] = number
                yield number, batch
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
