"""llama.cpp's dialect: `/infill` as llama.vim and llama.vscode send it, `/tokenize`, `/detokenize`."""

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, Field

from serve_apps.api.dialects.dialect import Dialect, sse
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Stop
from serve_apps.api.prompts import infilling_prompt, prompt_ids
from serve_apps.api.service import Served, Service, started, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.engine.request import Sampling

EXTRA_SHARE = 2  # text of other files takes at most half of the window
TYPES = {"length": "limit", "deadline": "limit", "end": "eos", "stop": "word"}


class Extra(BaseModel):
    """A piece of another file."""

    text: str
    filename: str | None = None


class InfillBody(BaseModel):
    """The text around the cursor; `prompt` is the cursor's line before it. n_predict 0 warms the cache."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[Extra] | None = Field(None, max_length=256)
    prompt: str | None = None
    n_predict: int | None = Field(None, ge=-1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=0, le=1 << 20)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-1, lt=1 << 63)
    stop: Stop | None = None
    t_max_predict_ms: float | None = Field(None, ge=0)
    stream: bool | None = False

    def sampling(self, room: int) -> Sampling:
        """That server's defaults where nothing is said."""
        asked = 128 if self.n_predict is None else self.n_predict
        return Sampling(
            max_tokens=max(1, min(room, 128 if asked < 0 else asked)),
            temperature=0.8 if self.temperature is None else self.temperature,
            top_p=self.top_p or 0.95,
            top_k=40 if self.top_k is None else self.top_k,
            seed=secrets.randbits(48) if self.seed is None or self.seed < 0 else self.seed,
            stop=tuple(filter(None, self.stop or ())),
        )


class TokenizeBody(BaseModel):
    """llama.cpp's `content`, vLLM's `prompt`, or text-generation-inference's `inputs`."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    inputs: str | None = None


class DetokenizeBody(BaseModel):
    """Ids to be text again."""

    model: str | None = None
    tokens: list[int] = Field(max_length=1 << 20)


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["llama.cpp"])

    @api.post("/infill", response_model=None)
    async def infill(body: InfillBody, request: Request) -> Response | dict[str, Any]:
        """The text at the cursor."""
        return await _infill(service, body, request)

    @api.post("/tokenize", response_model=None)
    async def tokenize(body: TokenizeBody) -> Any:
        """Ids of a text, special tokens recognized; the shape is that of whose field was sent."""
        return _tokenized(service, body)

    @api.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, str]:
        """Text of ids."""
        served = service.model(body.model)
        if any(not 0 <= token < served.tokenizer.size for token in body.tokens):
            raise Problem(400, f"tokens: ids must lie in 0..{served.tokenizer.size - 1}")
        return {"content": served.tokenizer.decode(body.tokens, skip_special=False)}

    @api.get("/tokenizer.json", response_class=PlainTextResponse)
    async def tokenizer() -> Response:
        """The first model's tokenizer, for clients that count tokens themselves."""
        return Response(service.model(None).tokenizer.json_text, media_type="application/json")

    return api


async def _infill(service: Service, body: InfillBody, request: Request) -> Response | dict[str, Any]:
    served, caller = service.model(None), service.caller(request)
    if body.t_max_predict_ms:
        until = time.monotonic() + body.t_max_predict_ms / 1000
        caller = dataclasses.replace(caller, deadline=min(until, caller.deadline or until))
    prompt = _prompt(served, body)
    sampling = body.sampling(served.engine.context - len(prompt))
    began = time.perf_counter()
    if not body.stream:
        answer = await while_connected(request, service.complete(served, prompt, sampling, caller))
        text = "" if body.n_predict == 0 else answer.text
        return _last(served, text, answer.finish, len(prompt), len(answer.scored), began)
    batches = await started(service.batches(served, prompt, sampling, caller))

    async def chunks() -> AsyncIterator[str]:
        made = 0
        async for batch in batches:
            made += sum(event.scored is not None for event in batch)
            text, finish = "".join(event.text for event in batch), batch[-1].finish
            if finish:
                yield sse(_last(served, text, finish, len(prompt), made, began))
            elif text:
                yield sse({"content": text, "stop": False})

    return streamed(DIALECT, chunks())


def _tokenized(service: Service, body: TokenizeBody) -> Any:
    served = service.model(body.model)
    if body.content is not None:
        return {"tokens": prompt_ids(served.tokenizer, body.content)}
    if body.prompt is not None:
        ids = prompt_ids(served.tokenizer, body.prompt)
        return {"count": len(ids), "max_model_len": served.engine.context, "tokens": ids}
    if body.inputs is not None:
        ids = prompt_ids(served.tokenizer, body.inputs)
        return [{"id": i, "text": served.tokenizer.decode([i], skip_special=False)} for i in ids]
    raise Problem(400, "content: is missing; send content, prompt or inputs")


def _prompt(served: Served, body: InfillBody) -> list[int]:
    answer = body.sampling(served.engine.context // 4).max_tokens
    room = served.engine.context - answer
    prefix = body.input_prefix + (body.prompt or "")
    around = infilling_prompt(served.tokenizer, prefix, body.input_suffix, room, served.fim_order)
    # whole pieces only, and the first ones first: what changes least is found in the prefix cache
    extra: list[int] = []
    for piece in body.input_extra or ():
        name = f"<filename>{piece.filename}\n" if piece.filename else ""
        ids = prompt_ids(served.tokenizer, f"{name}{piece.text}\n")
        if len(extra) + len(ids) > min(room - len(around), served.engine.context // EXTRA_SHARE):
            break
        extra += ids
    return [*extra, *around]


def _last(served: Served, text: str, finish: str, prompt: int, made: int, began: float) -> dict[str, Any]:
    spent = (time.perf_counter() - began) * 1000
    rate = 1000 * made / spent if spent else 0.0
    return {
        "content": text,
        "stop": True,
        "stop_type": TYPES[finish],
        "model": served.name,
        "tokens_predicted": made,
        "tokens_evaluated": prompt,
        "tokens_cached": prompt,
        "truncated": False,
        "generation_settings": {"n_ctx": served.engine.context},
        "timings": {
            "prompt_n": prompt,
            "prompt_ms": 0.0,
            "prompt_per_second": 0.0,
            "predicted_n": made,
            "predicted_ms": spent,
            "predicted_per_second": rate,
        },
    }


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    return problem.status, {"error": {"code": problem.status, "message": problem.message, "type": problem.kind}}


DIALECT = Dialect("llama.cpp", router, ("/infill", "/tokenize", "/detokenize"), _shape)
