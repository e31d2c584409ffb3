"""Anthropic's dialect: ``/v1/messages``, whole or as named events, and ``/v1/messages/count_tokens``."""

import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from serve_apps.api.chat import chat_prompt
from serve_apps.api.conversation import MOST_TURNS, Part, plain_text
from serve_apps.api.dialects.dialect import Dialect, named_event
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Fields, Stop, words
from serve_apps.api.service import Served, Service, started, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.engine.request import Event, Sampling, drawn_seed

REASONS = {"length": "max_tokens", "deadline": "max_tokens", "stop": "stop_sequence", "end": "end_turn"}
KINDS = {413: "request_too_large", 500: "api_error", 503: "overloaded_error"}


class Turn(Fields):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Part]


class CountBody(Fields):
    """/v1/messages/count_tokens."""

    HARMLESS = frozenset({"metadata", "service_tier", "cache_control", "betas"})
    REFUSED = {
        "tools": (),
        "tool_choice": ({"type": "auto"}, {"type": "none"}),
        "thinking": ({"type": "disabled"},),
        "container": (),
        "mcp_servers": (),
        "context_management": (),
        "output_config": (),
        "output_format": (),
    }
    model: str | None = None
    messages: list[Turn] = Field(min_length=1, max_length=MOST_TURNS)
    system: str | list[Part] | None = None

    def turns(self) -> list[dict[str, Any]]:
        """What templates take.

        Raises:
            ValueError: a part is no text.
        """
        opening = [{"role": "system", "content": plain_text(self.system)}] if self.system else []
        return [*opening, *({"role": one.role, "content": plain_text(one.content)} for one in self.messages)]


class MessagesBody(CountBody):
    """/v1/messages."""

    max_tokens: int = Field(ge=1)
    stop_sequences: Stop | None = None
    stream: bool | None = False
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=0, le=1 << 20)
    top_p: float | None = Field(None, gt=0, le=1)

    def sampling(self, served: Served, prompt: list[int]) -> Sampling:
        """How to sample after a prompt."""
        return Sampling(
            max_tokens=served.answer(prompt, self.max_tokens),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            seed=drawn_seed(),
            stop=words(self.stop_sequences),
        )


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["Anthropic"])

    @api.post("/v1/messages", response_model=None)
    async def messages(body: MessagesBody, request: Request) -> Response | dict[str, Any]:
        """The assistant's next turn."""
        served, caller = service.model(body.model), service.caller(request)
        prompt, stops = await chat_prompt(served, body.turns())
        own = body.sampling(served, prompt)
        job = (served, prompt, own.stopped_by(stops), caller)
        if body.stream:
            return streamed(DIALECT, _events(served, len(prompt), own, await started(service.batches(*job))))
        answer = await while_connected(request, service.complete(*job))
        ended = _ended(answer.finish, answer.word, own)
        used = _usage(len(prompt), len(answer.scored), answer.cached)
        return {**_message(served), "content": [{"type": "text", "text": answer.text}], **ended, "usage": used}

    @api.post("/v1/messages/count_tokens")
    async def count(body: CountBody) -> dict[str, int]:
        """How many tokens a conversation has."""
        served = service.model(body.model)
        prompt, _ = await chat_prompt(served, body.turns())
        return {"input_tokens": len(prompt)}

    return api


def _message(served: Served) -> dict[str, Any]:
    named = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": served.name}
    return {**named, "content": [], "stop_reason": None, "stop_sequence": None}


def _usage(prompt: int, made: int, cached: int) -> dict[str, int]:
    # what is read from the cache is not counted with the rest in this dialect
    more = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": cached}
    return {"input_tokens": prompt - cached, "output_tokens": made, **more}


def _ended(finish: str, word: str, own: Sampling) -> dict[str, Any]:
    """Why it ended; a stop of the dialogue's own form is an end of the turn."""
    stopped = finish == "stop" and word in own.stop
    reason = REASONS[finish] if finish != "stop" or stopped else "end_turn"
    return {"stop_reason": reason, "stop_sequence": word if stopped else None}


async def _events(
    served: Served, prompt: int, own: Sampling, batches: AsyncIterator[list[Event]]
) -> AsyncIterator[str]:
    opened = {**_message(served), "usage": _usage(prompt, 0, 0)}
    held = _event("message_start", message=opened)
    held += _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    made = 0
    async for batch in batches:
        made += sum(event.scored is not None for event in batch)
        text, last = "".join(event.text for event in batch), batch[-1]
        if text:
            held += _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        if last.finish:
            held += _event("content_block_stop", index=0)
            used = _usage(prompt, made, last.cached)
            held += _event("message_delta", delta=_ended(last.finish, last.word, own), usage=used)
            held += _event("message_stop")
        yield held
        held = ""


def _event(kind: str, **told: Any) -> str:
    return named_event(kind, {"type": kind, **told})


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    kind = KINDS.get(problem.status, problem.kind)
    return problem.status, {"type": "error", "error": {"type": kind, "message": problem.message}}


def _line(value: Any) -> str:
    return named_event("error", value)


DIALECT = Dialect("Anthropic", router, ("/v1/messages", "/v1/messages/count_tokens"), _shape, _line)
