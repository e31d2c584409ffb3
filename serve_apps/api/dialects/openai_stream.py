"""Streams of OpenAI's completions and chat: several choices in one, looked up in the index where that is wished."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serve_apps.api.attributed import AttributedChoices
from serve_apps.api.dialects.dialect import sse
from serve_apps.api.dialects.openai_fields import usage
from serve_apps.api.service import Caller, Served, Service, all_started, independent, merged
from serve_apps.engine.request import Event, Sampling


class Chunks(Protocol):
    """How a kind of answer is cut into chunks."""

    head: dict[str, Any]
    usage: bool

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """Choices that come before the first token."""

    def blocked(self, index: int) -> dict[str, Any]:
        """The choice in the place of one that is kept back."""

    def choice(self, index: int, event: Event) -> dict[str, Any] | None:
        """The choice of one event; None when it tells nothing yet."""


@dataclass(frozen=True)
class ChoicesAsked:
    """Prompts, `n` choices of each, and how they are sampled."""

    served: Served
    prompts: Sequence[list[int]]
    n: int
    sampling: Sequence[Sampling]  # of each prompt
    caller: Caller

    def jobs(self) -> list[tuple[list[int], Sampling]]:
        """Each choice's prompt and sampling."""
        pairs = zip(self.prompts, self.sampling, strict=True)
        return [(prompt, one) for prompt, sampling in pairs for one in independent(sampling, self.n)]


async def chunked(
    service: Service, asked: ChoicesAsked, chunks: Chunks, attributed: AttributedChoices
) -> AsyncIterator[str]:
    """Server-sent events; all choices are queued, and each one's first token awaited, before the first is given."""
    jobs = asked.jobs()
    streams = await all_started([service.batches(asked.served, *job, asked.caller) for job in jobs])
    return _sent(asked, streams, chunks, attributed)


async def _sent(
    asked: ChoicesAsked, streams: Sequence[AsyncIterator[list[Event]]], chunks: Chunks, attributed: AttributedChoices
) -> AsyncIterator[str]:
    made, cached, unfinished = 0, [0] * len(streams), len(streams)
    held = "".join(sse({**chunks.head, "choices": [choice]}) for choice in chunks.opening(len(streams)))
    texts, waiting = [""] * len(streams), [[] for _ in streams]  # type: list[str], list[list[dict[str, Any]]]
    async for index, batch in merged(streams):
        made += sum(event.scored is not None for event in batch)
        texts[index] += "".join(event.text for event in batch)
        told = [choice for choice in (chunks.choice(index, event) for event in batch) if choice]
        if attributed.holds:
            waiting[index] += told
            told = []
        if batch[-1].finish:
            cached[index], unfinished = batch[-1].cached, unfinished - 1
            kept = await attributed.of(index // attributed.choices, texts[index])
            told = [*waiting[index], *told]
            told = [chunks.blocked(index)] if kept.blocks else told
            told[-1] |= kept.told
        held += "".join(sse({**chunks.head, "choices": [choice]}) for choice in told)
        if held and unfinished:
            yield held
            held = ""
    if chunks.usage:
        found = sum(max(cached[at : at + asked.n]) for at in range(0, len(cached), asked.n))
        held += sse({**chunks.head, "choices": [], "usage": usage(sum(map(len, asked.prompts)), made, found)})
    yield held + "data: [DONE]\n\n"
