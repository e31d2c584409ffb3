"""Ollama's dialect: `/api/generate` and `/api/chat` here, what is served in `ollama_models`; newline-separated JSON."""

import dataclasses
import datetime
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from serve_apps.api.chat import chat_prompt
from serve_apps.api.conversation import MOST_TURNS, Message, Tool, plain_tools
from serve_apps.api.dialects import ollama_models
from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Fields, Stop, StopText, repetition_of, words
from serve_apps.api.formats import Schema, of_ollama
from serve_apps.api.prompts import Document
from serve_apps.api.service import Caller, Served, Service, started, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.api.tools import calls_in
from serve_apps.engine.request import Sampling, drawn_seed
from starloom.tokenizer import FIM_MIDDLE

FINISH = {"length": "length", "deadline": "length"}
USUAL_TOKENS = 128
Shape = Callable[[str], dict[str, Any]]


class Options(Fields):
    """`options`; -1 or -2 of `num_predict` mean as much as fits, of `repeat_last_n` all, a seed of -1 any."""

    HARMLESS = frozenset(
        {"num_batch", "num_gpu", "main_gpu", "low_vram", "use_mmap", "use_mlock", "num_thread", "numa", "f16_kv"}
        | {"vocab_only", "mirostat_eta", "mirostat_tau", "embedding_only", "logits_all", "num_gqa"}
    )
    REFUSED = {"mirostat": (0,), "tfs_z": (1, 1.0), "penalize_newline": (True,), "num_keep": (0, -1, 4)}
    num_predict: int | None = Field(None, ge=-2)
    num_ctx: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-1, lt=1 << 63)
    stop: StopText | Stop | None = None
    repeat_penalty: float | None = Field(None, ge=0.01, le=10)
    repeat_last_n: int | None = Field(None, ge=-1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)

    def sampling(self, room: int) -> Sampling:
        """That server's defaults where nothing is said."""
        asked = USUAL_TOKENS if self.num_predict is None else self.num_predict
        repetition = repetition_of(self.repeat_penalty, self.repeat_last_n)
        return Sampling(
            max_tokens=max(1, room if asked < 1 else min(asked, room)),
            temperature=0.8 if self.temperature is None else self.temperature,
            top_p=self.top_p or 0.9,
            top_k=40 if self.top_k is None else max(0, self.top_k),
            min_p=self.min_p or 0.0,
            typical_p=self.typical_p or 1.0,
            seed=drawn_seed() if self.seed is None or self.seed < 0 else self.seed,
            stop=words(self.stop),
            repetition_penalty=repetition.penalty,
            penalty_window=repetition.window,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class OllamaBody(Fields):
    """What /api/generate and /api/chat have in common."""

    HARMLESS = frozenset({"keep_alive"})
    REFUSED = {"think": (), "logprobs": (), "top_logprobs": (0,), "truncate": (True,), "shift": (True,)}
    model: str | None = None
    stream: bool | None = True
    format: str | Schema | None = None
    options: Options | None = None

    def within(self, served: Served) -> Served:
        """The model in the window that is asked for, if that is smaller than its own."""
        asked = self.options.num_ctx if self.options else None
        return served.within(asked) if asked else served

    def sampling(self, served: Served, prompt: list[int]) -> Sampling:
        """How to sample after a prompt."""
        made = (self.options or Options()).sampling(served.answer(prompt))
        return dataclasses.replace(made, grammar=of_ollama(self.format))


class OllamaGenerateBody(OllamaBody):
    """/api/generate. Editors send `raw` with sentinels in the prompt, or `suffix`; without a prompt it loads."""

    REFUSED = {"images": (), "template": (), "context": (), "width": (), "height": (), "steps": ()}
    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = False


class OllamaChatBody(OllamaBody):
    """/api/chat; without messages it loads."""

    messages: list[Message] = Field(default=[], max_length=MOST_TURNS)
    tools: list[Tool] | None = Field(None, max_length=128)


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["Ollama"])
    api.include_router(ollama_models.router(service))

    @api.post("/api/generate", response_model=None)
    async def generate(body: OllamaGenerateBody, request: Request) -> Response | dict[str, Any]:
        """Text after the prompt or before the suffix, streamed unless `stream` is false."""
        served, caller = body.within(service.model(body.model)), service.caller(request)
        if not (body.prompt or body.suffix or body.system):
            return _loaded(served, _response(""), body.stream)
        prompt, stops = await _prompt(served, body)
        sampling = body.sampling(served, prompt).stopped_by(stops)
        return await _answer(service, served, prompt, sampling, caller, request, body.stream, _response)

    @api.post("/api/chat", response_model=None)
    async def chat(body: OllamaChatBody, request: Request) -> Response | dict[str, Any]:
        """The assistant's next turn, streamed unless `stream` is false; a turn that may be a call comes whole."""
        served, caller = body.within(service.model(body.model)), service.caller(request)
        if not body.messages:
            return _loaded(served, _turn([])(""), body.stream)
        tools = plain_tools(body.tools)
        prompt, stops = await chat_prompt(served, [message.plain() for message in body.messages], tools)
        sampling = body.sampling(served, prompt).stopped_by(stops)
        shape = _turn([tool["function"]["name"] for tool in tools])
        return await _answer(service, served, prompt, sampling, caller, request, body.stream, shape, whole=bool(tools))

    return api


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def _response(text: str) -> dict[str, Any]:
    return {"response": text}


def _turn(names: Sequence[str]) -> Shape:
    def shaped(text: str) -> dict[str, Any]:
        said, calls = calls_in(text, names) if names else (text, [])
        told = [{"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in calls]
        return {"message": {"role": "assistant", "content": said, **({"tool_calls": told} if told else {})}}

    return shaped


def _loaded(served: Served, shaped: dict[str, Any], stream: bool | None) -> Response | dict[str, Any]:
    """What is answered to a request that says nothing: the model is there."""
    told = {"model": served.name, "created_at": _now(), **shaped, "done": True, "done_reason": "load"}
    return Response(json.dumps(told) + "\n", media_type=DIALECT.media_type) if stream else told


async def _answer(
    service: Service,
    served: Served,
    prompt: list[int],
    sampling: Sampling,
    caller: Caller,
    request: Request,
    stream: bool | None,
    shape: Shape,
    *,
    whole: bool = False,
) -> Response | dict[str, Any]:
    began = time.perf_counter_ns()
    if not stream or whole:
        answer = await while_connected(request, service.complete(served, prompt, sampling, caller))
        told = _last(served, shape(answer.text), answer.finish, len(prompt), len(answer.scored), began)
        return Response(json.dumps(told) + "\n", media_type=DIALECT.media_type) if stream else told
    batches = await started(service.batches(served, prompt, sampling, caller))

    async def chunks() -> AsyncIterator[str]:
        made = 0
        async for batch in batches:
            made += sum(event.scored is not None for event in batch)
            text, finish = "".join(event.text for event in batch), batch[-1].finish
            if finish:
                yield json.dumps(_last(served, shape(text), finish, len(prompt), made, began)) + "\n"
            elif text:
                head = {"model": served.name, "created_at": _now()}
                yield json.dumps({**head, **shape(text), "done": False}) + "\n"

    return streamed(DIALECT, chunks())


async def _prompt(served: Served, body: OllamaGenerateBody) -> tuple[list[int], tuple[str, ...]]:
    asked = (body.options.num_predict if body.options else None) or USUAL_TOKENS
    if body.suffix:  # in this dialect an empty one is none
        return await served.prompts.document(Document(body.prompt, body.suffix), max(1, asked)), ()
    if served.chat_template and not body.raw and FIM_MIDDLE not in body.prompt:
        system = [{"role": "system", "content": body.system}] if body.system else []
        return await chat_prompt(served, [*system, {"role": "user", "content": body.prompt}])
    text = body.prompt if body.raw or not body.system else f"{body.system}\n\n{body.prompt}"
    # that server cuts what does not fit, the oldest first
    return await served.prompts.latest(text, max(1, asked)), ()


def _last(served: Served, shaped: dict[str, Any], finish: str, prompt: int, made: int, began: int) -> dict[str, Any]:
    spent = time.perf_counter_ns() - began
    return {
        "model": served.name,
        "created_at": _now(),
        **shaped,
        "done": True,
        "done_reason": FINISH.get(finish, "stop"),
        "total_duration": spent,
        "load_duration": 0,
        "prompt_eval_count": prompt,
        "prompt_eval_duration": 0,
        "eval_count": made,
        "eval_duration": spent,
    }


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"error": problem.message}


def _error_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


DIALECT = Dialect("Ollama", router, ("/api/*",), _shape, _error_line, "application/x-ndjson", nested=("options",))
