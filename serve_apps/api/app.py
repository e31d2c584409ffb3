"""The replica: HTTP ingress and engine in one process."""

import asyncio
import dataclasses
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from ray import serve

from serve_apps.api.bodies import CompletionBody, GenerateBody, infilling_prompt, openai_error
from serve_apps.api.generation import Completion, GenerationError, complete, events_of
from serve_apps.engine.engine import EngineConfig, LocalEngine
from serve_apps.engine.request import Event, Overloaded

api = FastAPI(title="Starloom")
TGI_PATHS = ("/", "/generate", "/generate_stream")
TGI_KINDS = {400: "validation", 422: "validation", 424: "generation", 429: "overloaded"}
TGI_FINISH = {"length": "length", "stop": "stop_sequence"}


def _problem(request: Request, status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 429 else {}
    if request.url.path in TGI_PATHS:
        status = {400: 422, 500: 424}.get(status, status)
        return JSONResponse({"error": message, "error_type": TGI_KINDS[status]}, status, headers)
    kind = {429: "rate_limit_error", 500: "server_error"}.get(status, "invalid_request_error")
    return JSONResponse(openai_error(message, kind), status, headers)


@api.exception_handler(RequestValidationError)
async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return _problem(request, 400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


@api.exception_handler(ValueError)
async def _refused(request: Request, error: ValueError) -> JSONResponse:
    return _problem(request, 400, str(error))


@api.exception_handler(Overloaded)
async def _overloaded(request: Request, error: Overloaded) -> JSONResponse:
    return _problem(request, 429, str(error))


@api.exception_handler(GenerationError)
async def _failed(request: Request, error: GenerationError) -> JSONResponse:
    return _problem(request, 500, str(error))


def _sse(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _with_first(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events, the first awaited here: what is refused is refused before the answer's head is sent."""
    first = await anext(events)

    async def chained() -> AsyncIterator[Event]:
        yield first
        async for event in events:
            yield event

    return chained()


@serve.deployment(max_ongoing_requests=256)
@serve.ingress(api)
class Completions:
    """One model behind the OpenAI and text-generation-inference dialects."""

    def __init__(self, folder: str, model_name: str, config: EngineConfig) -> None:
        import torch

        from starloom.model.folder import read_model
        from starloom.tokenizer import load_tokenizer

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._name, self._tokenizer = model_name, load_tokenizer(folder)
        self._engine = LocalEngine(read_model(folder), self._tokenizer, config)

    @api.post("/v1/completions", response_model=None)
    async def completions(self, body: CompletionBody) -> Response | dict[str, Any]:
        """OpenAI's completion; with `suffix` the text between prompt and suffix."""
        if body.model not in (None, self._name):
            return JSONResponse(openai_error(f"model {body.model!r} is not served; use {self._name!r}"), 404)
        prompts = [self._prompt(prompt, body) for prompt in body.prompts() for _ in range(body.n)]
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        head["model"] = self._name
        sampling = body.sampling()
        if body.stream:
            if len(prompts) > 1 or body.echo:
                raise ValueError("stream: takes one prompt, n = 1 and no echo; send several requests")
            events = await _with_first(events_of(self._engine, prompts[0], sampling))
            return StreamingResponse(self._openai_stream(head, events, body), media_type="text/event-stream")
        settings = [dataclasses.replace(sampling, seed=sampling.seed + i) for i in range(len(prompts))]
        answers = await asyncio.gather(
            *(complete(self._engine, prompt, s) for prompt, s in zip(prompts, settings, strict=True))
        )
        texts = [self._tokenizer.decode(p) if body.echo else "" for p in prompts]
        choices = [
            {
                "index": number,
                "text": text + answer.text,
                "logprobs": self._logprobs(answer.tokens, answer.logprobs) if body.logprobs is not None else None,
                "finish_reason": answer.finish,
            }
            for number, (answer, text) in enumerate(zip(answers, texts, strict=True))
        ]
        used, made = sum(map(len, prompts)) // body.n, sum(len(answer.tokens) for answer in answers)
        usage = {"prompt_tokens": used, "completion_tokens": made, "total_tokens": used + made}
        return {**head, "choices": choices, "usage": usage}

    @api.post("/generate", response_model=None)
    async def generate(self, body: GenerateBody) -> dict[str, Any]:
        """text-generation-inference's unstreamed answer."""
        answer = await complete(self._engine, self._tokenizer.encode_prompt(body.inputs), body.sampling())
        return self._generated(body, answer)

    @api.post("/generate_stream", response_model=None)
    async def generate_stream(self, body: GenerateBody) -> Response:
        """text-generation-inference's stream."""
        prompt = self._tokenizer.encode_prompt(body.inputs)
        events = await _with_first(events_of(self._engine, prompt, body.sampling()))
        return StreamingResponse(self._tgi_stream(events), media_type="text/event-stream")

    @api.post("/", response_model=None)
    async def either(self, body: GenerateBody) -> Response | list[dict[str, Any]]:
        """A stream when `stream` says so, else an array of one answer."""
        return await self.generate_stream(body) if body.stream else [await self.generate(body)]

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [{"id": self._name, "object": "model", "created": 0, "owned_by": "starloom"}]}

    @api.get("/info")
    async def info(self) -> dict[str, Any]:
        """What editors ask about the window."""
        window = self._engine.context
        sizes = dict.fromkeys(("max_input_length", "max_input_tokens"), window - 1)
        return {"model_id": self._name, "max_total_tokens": window, **sizes}

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """Alive."""
        return {"status": "ok"}

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics(self) -> str:
        """Gauges in Prometheus' text format, named as vLLM names them."""
        running, waiting = self._engine.load
        values = {
            "num_requests_running": running,
            "num_requests_waiting": waiting,
            "kv_cache_usage_perc": 1 - self._engine.free_blocks / self._engine.blocks,
        }
        label = f"{{model_name={json.dumps(self._name)}}}"
        return "".join(f"# TYPE vllm:{k} gauge\nvllm:{k}{label} {v}\n" for k, v in values.items())

    def _prompt(self, prompt: str | list[int], body: CompletionBody) -> list[int]:
        if isinstance(prompt, list):
            if any(not 0 <= token < self._tokenizer.size for token in prompt):
                raise ValueError(f"prompt: ids must lie in 0..{self._tokenizer.size - 1}")
            return prompt
        if body.suffix:
            return infilling_prompt(self._tokenizer, prompt, body.suffix, self._engine.context - body.max_tokens)
        return self._tokenizer.encode_prompt(prompt)

    def _logprobs(self, tokens: list[int], logprobs: list[float]) -> dict[str, Any]:
        texts = [self._tokenizer.decode([token], skip_special=False) for token in tokens]
        offsets = [sum(map(len, texts[:n])) for n in range(len(texts))]
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": None, "text_offset": offsets}

    async def _openai_stream(
        self, head: dict[str, Any], events: AsyncIterator[Event], body: CompletionBody
    ) -> AsyncIterator[str]:
        async for event in events:
            shown = [event.token] if event.token is not None and body.logprobs is not None else []
            logprobs = self._logprobs(shown, [event.logprob]) if shown else None
            if event.text or event.finish or logprobs:
                choice = {"index": 0, "text": event.text, "logprobs": logprobs, "finish_reason": event.finish}
                yield _sse({**head, "choices": [choice]})
        yield "data: [DONE]\n\n"

    async def _tgi_stream(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        whole, index = "", 0
        async for event in events:
            index, whole = index + 1, whole + event.text
            special = event.token in self._tokenizer.special_ids.values()
            token = {"id": event.token, "text": event.text, "logprob": event.logprob, "special": special}
            yield _sse(
                {"index": index, "token": token, "generated_text": whole if event.finish else None, "details": None}
            )

    def _generated(self, body: GenerateBody, answer: Completion) -> dict[str, Any]:
        text = body.inputs + answer.text if body.parameters.return_full_text else answer.text
        if not body.parameters.details:
            return {"generated_text": text}
        finish = TGI_FINISH[answer.finish]
        return {"generated_text": text, "details": {"finish_reason": finish, "generated_tokens": len(answer.tokens)}}
