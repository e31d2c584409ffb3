"""OpenAI's chat: the assistant's next turn, with calls of tools where the model's template has a place for them."""

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from serve_apps.api.attributed import AttributedChoices
from serve_apps.api.chat import chat_prompt
from serve_apps.api.conversation import MOST_TURNS, Message, Tool, plain_tools
from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.dialects.openai_fields import (
    MOST_LOGPROBS,
    SamplingBody,
    chat_score,
    finish_reason,
    head,
    usage,
)
from serve_apps.api.dialects.openai_stream import ChoicesAsked, chunked
from serve_apps.api.service import Completion, Served, Service, together, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.api.tools import ToolCall, calls_in, forced
from serve_apps.engine.request import Event, Sampling

USUAL_TOKENS = 512  # of an answer for which no number is asked


class ChatBody(SamplingBody):
    """/v1/chat/completions."""

    HARMLESS = frozenset({"reasoning_effort", "prediction", "include_reasoning"})
    REFUSED = {
        "audio": (),
        "verbosity": ("medium",),
        "modalities": (["text"],),
        "functions": (),
        "function_call": ("none", "auto"),
        "web_search_options": (),
        "chat_template": (),
        "chat_template_kwargs": (),
        "add_generation_prompt": (True,),
        "continue_final_message": (),
        "documents": (),
        "echo": (),
        "mm_processor_kwargs": (),
    }
    messages: list[Message] = Field(min_length=1, max_length=MOST_TURNS)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that may be called."""
        return [] if self.tool_choice == "none" else plain_tools(self.tools)

    parallel_tool_calls: bool | None = None

    def called(self, text: str) -> tuple[str, list[ToolCall]]:
        """What an answer says besides, and its calls of the tools that are offered."""
        said, calls = calls_in(text, [tool["function"]["name"] for tool in self.offered])
        return said, calls[:1] if self.parallel_tool_calls is False else calls


def router(service: Service, dialect: Dialect) -> APIRouter:
    """The routes; failures of a stream are told in the dialect's words."""
    api = APIRouter(tags=["OpenAI"])

    @api.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response | dict[str, Any]:
        """The assistant's next turn."""
        served, caller = service.model(body.model), service.caller(request)
        prompt, sampling = await _asked(served, body)
        attributed = AttributedChoices(service.attribution(body.attribution), body.attribution, ())
        asked = ChoicesAsked(served, [prompt], body.n or 1, [sampling], caller)
        if body.stream:
            chunks = await chunked(service, asked, _Chunks(served, body), attributed)
            return streamed(dialect, chunks)
        return await _whole(service, asked, body, attributed, request)

    return api


async def _asked(served: Served, body: ChatBody) -> tuple[list[int], Sampling]:
    prompt, stops = await chat_prompt(served, [message.plain() for message in body.messages], body.offered)
    wanted = body.max_completion_tokens or body.max_tokens or USUAL_TOKENS
    call = forced(body.offered, body.tool_choice) if body.tools else None
    sampling = body.sampled(
        served,
        served.answer(prompt, wanted),
        top_logprobs=body.top_logprobs if body.logprobs and body.top_logprobs else 0,
        **({"grammar": call} if call else {}),
    )
    return prompt, sampling.stopped_by(stops)


async def _whole(
    service: Service, asked: ChoicesAsked, body: ChatBody, attributed: AttributedChoices, request: Request
) -> dict[str, Any]:
    served, caller = asked.served, asked.caller
    work = together(service.complete(served, *job, caller) for job in asked.jobs())
    answers = await while_connected(request, work)
    choices = [_choice(served, number, answer, body) for number, answer in enumerate(answers)]
    for choice, answer in zip(choices, answers, strict=True):
        kept = await attributed.of(0, answer.text)
        if kept.blocks:
            message = {"role": "assistant", "content": ""}
            choice |= {"message": message, "logprobs": None, "finish_reason": "content_filter"}
        choice |= kept.told
    made = sum(len(answer.scored) for answer in answers)
    counted = usage(len(asked.prompts[0]), made, max(answer.cached for answer in answers))
    return {**head("chatcmpl", "chat.completion", served), "choices": choices, "usage": counted}


def _choice(served: Served, number: int, answer: Completion, body: ChatBody) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    finish = finish_reason(answer.finish)
    if body.offered:
        said, calls = body.called(answer.text)
        if calls:
            message |= {"content": said or None, "tool_calls": [call.told() for call in calls]}
            finish = "tool_calls" if finish == "stop" else finish
    scores = {"content": [chat_score(served, s) for s in answer.scored]} if body.logprobs else None
    return {"index": number, "message": message, "logprobs": scores, "finish_reason": finish}


class _Chunks:
    """Chunks of a streamed turn. Where tools are offered, a turn is told at its end: only then is a call known."""

    def __init__(self, served: Served, body: ChatBody) -> None:
        self._served, self._body = served, body
        self._said: dict[int, str] = {}
        self.head = head("chatcmpl", "chat.completion.chunk", served)
        self.usage = bool(body.stream_options and body.stream_options.include_usage)

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": n, "delta": delta, "logprobs": None, "finish_reason": None} for n in range(choices)]

    def blocked(self, index: int) -> dict[str, Any]:
        """The choice in the place of one that is kept back."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": "content_filter"}

    def choice(self, index: int, event: Event) -> dict[str, Any] | None:
        """The choice of one event; None when it tells nothing yet."""
        logprobs, finish = None, finish_reason(event.finish)
        if event.scored is not None and self._body.logprobs:
            logprobs = {"content": [chat_score(self._served, event.scored)]}
        delta: dict[str, Any] = {"content": event.text} if event.text else {}
        if self._body.offered:
            self._said[index] = self._said.get(index, "") + event.text
            delta = self._called(self._said[index]) if finish else {}
            finish = "tool_calls" if finish == "stop" and "tool_calls" in delta else finish
        if not (delta or finish or logprobs):
            return None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def _called(self, text: str) -> dict[str, Any]:
        said, calls = self._body.called(text)
        delta: dict[str, Any] = {"content": said} if said else {}
        return {**delta, "tool_calls": _numbered(calls)} if calls else delta


def _numbered(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [call.told(index=number) for number, call in enumerate(calls)]
