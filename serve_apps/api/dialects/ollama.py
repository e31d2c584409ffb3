"""Ollama's dialect: `/api/generate`, `/api/chat`, `/api/tags`, `/api/version`; newline-separated JSON."""

import dataclasses
import datetime
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from serve_apps.api.chat import chat_prompt
from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Message, Stop, StopText
from serve_apps.api.prompts import infilling_prompt, prompt_ids
from serve_apps.api.service import Caller, Served, Service, started, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.engine.request import Sampling
from starloom.tokenizer import END_OF_TEXT

FINISH = {"length": "length", "deadline": "length"}
PRECISIONS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}
VERSION = "0.6.0"  # of the dialect: editors switch features on it


class Options(BaseModel):
    """`options`; -1 or -2 of `num_predict` mean as much as fits."""

    num_predict: int | None = Field(None, ge=-2)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1 << 20)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: StopText | Stop | None = None
    repeat_penalty: float | None = Field(None, ge=0.01, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)

    def sampling(self, room: int) -> Sampling:
        """That server's defaults where nothing is said."""
        asked = 128 if self.num_predict is None else self.num_predict
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max(1, room if asked < 1 else min(asked, room)),
            temperature=0.8 if self.temperature is None else self.temperature,
            top_p=self.top_p or 0.9,
            top_k=40 if self.top_k is None else self.top_k,
            seed=secrets.randbits(48) if self.seed is None else self.seed,
            stop=tuple(filter(None, stop)),
            repetition_penalty=self.repeat_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class OllamaGenerateBody(BaseModel):
    """/api/generate. Editors send `raw` with sentinels in the prompt, or `suffix`."""

    model: str | None = None
    prompt: str = ""
    suffix: str | None = None
    system: str | None = None
    stream: bool | None = True
    raw: bool | None = False
    options: Options | None = None


class OllamaChatBody(BaseModel):
    """/api/chat."""

    model: str | None = None
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool | None = True
    options: Options | None = None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["Ollama"])

    @api.get("/api/tags")
    async def tags() -> dict[str, Any]:
        """What is served."""
        return {"models": [_listed(served) for served in service.models.values()]}

    @api.get("/api/version")
    async def version() -> dict[str, str]:
        """The dialect's."""
        return {"version": VERSION}

    @api.post("/api/generate", response_model=None)
    async def generate(body: OllamaGenerateBody, request: Request) -> Response | dict[str, Any]:
        """Text after the prompt or before the suffix, streamed unless `stream` is false."""
        served, caller = service.model(body.model), service.caller(request)
        prompt = _prompt(served, body)
        sampling = (body.options or Options()).sampling(served.engine.context - len(prompt))
        return await _answer(service, served, prompt, sampling, caller, request, body.stream, _response)

    @api.post("/api/chat", response_model=None)
    async def chat(body: OllamaChatBody, request: Request) -> Response | dict[str, Any]:
        """The assistant's next turn, streamed unless `stream` is false."""
        served, caller = service.model(body.model), service.caller(request)
        prompt, stops = chat_prompt(served, [message.plain() for message in body.messages])
        sampling = (body.options or Options()).sampling(served.engine.context - len(prompt))
        sampling = dataclasses.replace(sampling, stop=(*sampling.stop, *stops))
        return await _answer(service, served, prompt, sampling, caller, request, body.stream, _message)

    return api


def _listed(served: Served) -> dict[str, Any]:
    precision = served.engine.precision
    details = {
        "format": "safetensors",
        "family": "gpt_bigcode",
        "families": ["gpt_bigcode"],
        "parameter_size": "",
        "quantization_level": PRECISIONS.get(precision, precision.upper()),
        "parent_model": "",
    }
    names = {"name": served.name, "model": served.name}
    return {**names, "modified_at": _now(), "size": 0, "digest": "", "details": details}


def _response(text: str) -> dict[str, Any]:
    return {"response": text}


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


async def _answer(
    service: Service,
    served: Served,
    prompt: list[int],
    sampling: Sampling,
    caller: Caller,
    request: Request,
    stream: bool | None,
    shape: Callable[[str], dict[str, Any]],
) -> Response | dict[str, Any]:
    began = time.perf_counter_ns()
    if not stream:
        answer = await while_connected(request, service.complete(served, prompt, sampling, caller))
        return _last(served, shape(answer.text), answer.finish, len(prompt), len(answer.scored), began)
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


def _prompt(served: Served, body: OllamaGenerateBody) -> list[int]:
    asked = (body.options.num_predict if body.options else None) or 128
    room = max(4, served.engine.context - max(1, min(asked, served.engine.context // 2)))
    if body.suffix:
        return infilling_prompt(served.tokenizer, body.prompt, body.suffix, room, served.fim_order)
    text = body.prompt if body.raw or not body.system else f"{body.system}\n\n{body.prompt}"
    # that server cuts what does not fit, the oldest first
    return prompt_ids(served.tokenizer, text)[-room:] or [served.tokenizer.special(END_OF_TEXT)]


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
        "eval_count": made,
        "eval_duration": spent,
    }


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"error": problem.message}


def _error_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


DIALECT = Dialect("Ollama", router, ("/api/*",), _shape, _error_line, "application/x-ndjson", nested=("options",))
