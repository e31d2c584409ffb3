"""OpenAI's responses: the same turns as in chat, in the shapes of ``/v1/responses``. Nothing is stored."""

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from serve_apps.api.chat import chat_prompt
from serve_apps.api.conversation import MOST_TURNS, Part, Role, plain_text
from serve_apps.api.dialects.dialect import Dialect, named_event
from serve_apps.api.dialects.openai_fields import chat_score
from serve_apps.api.fields import Fields
from serve_apps.api.formats import NamedSchema, ResponseFormat
from serve_apps.api.service import Completion, Served, Service, gathered, started, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.engine.request import Event, Sampling, drawn_seed

USUAL_TOKENS = 512


class InputItem(Fields):
    """A turn; what is no message is refused."""

    HARMLESS = frozenset({"id", "status"})
    type: Literal["message"] = "message"
    role: Role
    content: str | list[Part] = ""


class Format(NamedSchema):
    """What the answer must be; a schema stands beside its type."""

    type: Literal["text", "json_object", "json_schema"]


class TextOptions(Fields):
    """How the answer is written."""

    REFUSED = {"verbosity": ("medium",)}
    format: Format | None = None


class ResponsesBody(Fields):
    """/v1/responses."""

    HARMLESS = frozenset(
        {"metadata", "store", "user", "service_tier", "prompt_cache_key", "prompt_cache_retention", "reasoning"}
        | {"safety_identifier", "parallel_tool_calls", "stream_options", "max_tool_calls"}
    )
    REFUSED = {
        "previous_response_id": (),
        "conversation": (),
        "prompt": (),
        "background": (),
        "include": (["message.output_text.logprobs"],),
        "tools": (),
        "tool_choice": ("auto", "none"),
        "truncation": ("disabled",),
    }
    model: str | None = None
    input: str | list[InputItem] = Field(max_length=4 << 20)
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = False
    text: TextOptions | None = None

    def messages(self) -> list[dict[str, Any]]:
        """The turns as templates take them.

        Raises:
            ValueError: there is none, too many, or a part is no text.
        """
        opening = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*opening, {"role": "user", "content": self.input}]
        if not 0 < len(self.input) <= MOST_TURNS:
            raise ValueError(f"input: must have 1 to {MOST_TURNS} items")
        return [*opening, *({"role": one.role, "content": plain_text(one.content)} for one in self.input)]

    def sampling(self, served: Served, prompt: list[int]) -> Sampling:
        """How to sample after a prompt."""
        asked = self.text.format if self.text else None
        schema = NamedSchema.model_validate({"schema": asked.schema_}) if asked else None
        form = ResponseFormat(type=asked.type, json_schema=schema) if asked else None
        return Sampling(
            max_tokens=served.answer(prompt, self.max_output_tokens or USUAL_TOKENS),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            seed=drawn_seed(),
            grammar=form.grammar() if form else None,
            top_logprobs=self.top_logprobs or 0,
        )


def router(service: Service, dialect: Dialect) -> APIRouter:
    """The routes; failures of a stream are told in the dialect's words."""
    api = APIRouter(tags=["OpenAI"])

    @api.post("/v1/responses", response_model=None)
    async def responses(body: ResponsesBody, request: Request) -> Response | dict[str, Any]:
        """The assistant's next turn."""
        served, caller = service.model(body.model), service.caller(request)
        prompt, stops = await chat_prompt(served, body.messages())
        sampling = body.sampling(served, prompt)
        answer = _Answer(served, body, len(prompt))
        job = (served, prompt, sampling.stopped_by(stops), caller)
        if not body.stream:
            return answer.whole(await while_connected(request, service.complete(*job)))
        return streamed(dialect, answer.events(await started(service.batches(*job))))

    return api


class _Answer:
    """One response, whole or as events."""

    def __init__(self, served: Served, body: ResponsesBody, prompt: int) -> None:
        self._served, self._body, self._prompt = served, body, prompt
        self._id, self._message = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._at, self._number = int(time.time()), 0

    def whole(self, answer: Completion) -> dict[str, Any]:
        """The response object of a finished answer."""
        limited = answer.finish in ("length", "deadline")
        used = {
            "input_tokens": self._prompt,
            "input_tokens_details": {"cached_tokens": answer.cached},
            "output_tokens": len(answer.scored),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._prompt + len(answer.scored),
        }
        details = {"reason": "max_output_tokens"} if limited else None
        told = {"output": [self._item(answer)], "usage": used, "incomplete_details": details}
        return {**self._object("incomplete" if limited else "completed"), **told}

    async def events(self, batches: AsyncIterator[list[Event]]) -> AsyncIterator[str]:
        """The events of a stream, as they come."""
        opened = {**self._item(None), "content": [], "status": "in_progress"}
        at = {"item_id": self._message, "output_index": 0, "content_index": 0}
        opening: list[tuple[str, dict[str, Any]]] = [("created", {"response": self._object("in_progress")})]
        opening += [("in_progress", {"response": self._object("in_progress")})]
        opening += [("output_item.added", {"output_index": 0, "item": opened})]
        opening += [("content_part.added", {**at, "part": self._part(None)})]
        held = "".join(self._event(*one) for one in opening)
        kept: list[Event] = []
        async for batch in batches:
            kept += batch
            text = "".join(event.text for event in batch)
            if text:
                held += self._event("output_text.delta", {**at, "delta": text, "logprobs": []})
            if not batch[-1].finish:
                yield held
                held = ""
        answer = gathered(kept)
        closing: list[tuple[str, dict[str, Any]]] = [("output_text.done", {**at, "text": answer.text, "logprobs": []})]
        closing += [("content_part.done", {**at, "part": self._part(answer)})]
        closing += [("output_item.done", {"output_index": 0, "item": self._item(answer)})]
        whole = self.whole(answer)
        closing += [(whole["status"], {"response": whole})]
        yield held + "".join(self._event(*one) for one in closing)

    def _event(self, name: str, told: Mapping[str, Any]) -> str:
        self._number += 1
        kind = f"response.{name}"
        return named_event(kind, {"type": kind, "sequence_number": self._number - 1, **told})

    def _object(self, status: str) -> dict[str, Any]:
        body = self._body
        form = body.text.format.model_dump(by_alias=True) if body.text and body.text.format else {"type": "text"}
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._at,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "model": self._served.name,
            "output": [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": form},
            "tool_choice": "auto",
            "tools": [],
            "top_p": body.top_p or 1.0,
            "truncation": "disabled",
            "usage": None,
        }

    def _item(self, answer: Completion | None) -> dict[str, Any]:
        limited = answer is not None and answer.finish in ("length", "deadline")
        status = "incomplete" if limited else "completed"
        named = {"id": self._message, "type": "message", "status": status, "role": "assistant"}
        return {**named, "content": [self._part(answer)]}

    def _part(self, answer: Completion | None) -> dict[str, Any]:
        scores = [chat_score(self._served, one) for one in answer.scored] if answer and self._body.top_logprobs else []
        return {"type": "output_text", "text": answer.text if answer else "", "annotations": [], "logprobs": scores}
