"""text-generation-inference's dialect: `/`, `/generate`, `/generate_stream`, `/info`."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, model_validator

from serve_apps.api.dialects.dialect import Dialect, sse
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Fields, Stop, understood, words
from serve_apps.api.formats import of_tgi
from serve_apps.api.service import Caller, Completion, Served, Service, independent, started, together, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.engine.request import Event, Sampling, Scored, drawn_seed

STATUSES = {400: 422, 500: 424, 503: 429}
KINDS = {422: "validation", 424: "generation", 429: "overloaded"}
FINISH = {"length": "length", "stop": "stop_sequence", "end": "eos_token", "deadline": "length"}


class Parameters(Fields):
    """`parameters`; null means not given."""

    REFUSED = {"watermark": ()}

    best_of: int | None = Field(None, ge=1, le=8)
    max_new_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, gt=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, gt=0, le=1 << 20)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    do_sample: bool | None = False
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: Stop | None = None
    truncate: int | None = Field(None, ge=1)
    return_full_text: bool | None = False
    details: bool | None = False
    decoder_input_details: bool | None = False
    top_n_tokens: int | None = Field(None, ge=0, le=20)
    typical_p: float | None = Field(None, gt=0, le=1)
    adapter_id: str | None = None
    grammar: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _understood(cls, values: Any) -> Any:
        # some versions of llm-ls send {"parameters": {"parameters": {...}}}
        if isinstance(values, dict) and isinstance(values.get("parameters"), dict):
            values = {**values["parameters"], **{k: v for k, v in values.items() if k != "parameters"}}
        return understood(cls, values)


class GenerateBody(Fields):
    """A prompt and how to go on from it."""

    HARMLESS = frozenset({"model", "options"})
    inputs: str = Field(min_length=1)
    parameters: Parameters | None = None
    stream: bool | None = False

    @property
    def wishes(self) -> Parameters:
        """The parameters, or none."""
        return self.parameters or Parameters()

    def sampling(self, served: Served, prompt: list[int]) -> Sampling:
        """Greedy unless sampling is asked for, as that server does."""
        p = self.wishes
        sampled = p.do_sample or p.temperature is not None or p.top_p is not None or p.top_k is not None
        sampled = sampled or p.typical_p is not None
        return Sampling(
            max_tokens=served.answer(prompt, p.max_new_tokens or 100),
            temperature=(p.temperature or 1.0) if sampled else 0.0,
            top_p=p.top_p or 1.0,
            top_k=p.top_k or 0,
            typical_p=p.typical_p or 1.0,
            seed=drawn_seed() if p.seed is None else p.seed,
            stop=words(p.stop),
            grammar=of_tgi(p.grammar) if p.grammar else None,
            repetition_penalty=p.repetition_penalty or 1.0,
            frequency_penalty=p.frequency_penalty or 0.0,
            top_logprobs=p.top_n_tokens or 0,
            prompt_logprobs=bool(p.decoder_input_details),
        )


def router(service: Service) -> APIRouter:
    """The routes; the first model, unless `adapter_id` names another."""
    api = APIRouter(tags=["text-generation-inference"])

    @api.post("/generate", response_model=None)
    async def generate(body: GenerateBody, request: Request) -> dict[str, Any]:
        """The whole answer, as an object."""
        return await while_connected(request, _generated(service, body, service.caller(request)))

    @api.post("/generate_stream", response_model=None)
    async def generate_stream(body: GenerateBody, request: Request) -> Response:
        """The answer token by token."""
        served, caller = service.model(body.wishes.adapter_id, exact=True), service.caller(request)
        prompt = await _prompt(served, body)
        sampling = body.sampling(served, prompt)
        if sampling.prompt_logprobs:
            raise ValueError("decoder_input_details: goes not with a stream; ask for the whole answer")
        batches = await started(service.batches(served, prompt, sampling, caller))
        return streamed(DIALECT, _chunks(served, body, prompt, sampling, batches))

    @api.post("/", response_model=None)
    async def either(body: GenerateBody, request: Request) -> Response | list[dict[str, Any]]:
        """A stream when `stream` says so, else an array of one answer."""
        return await generate_stream(body, request) if body.stream else [await generate(body, request)]

    @api.get("/info")
    async def info() -> dict[str, Any]:
        """What editors ask about the window."""
        return _info(service.model(None))

    return api


def _info(served: Served) -> dict[str, Any]:
    window = served.engine.context
    sizes = dict.fromkeys(("max_input_length", "max_input_tokens"), window - 1)
    told = {"model_id": served.name, "max_total_tokens": window, **sizes}
    return {**told, "version": "starloom", "kernels": served.engine.kernels}


async def _prompt(served: Served, body: GenerateBody) -> list[int]:
    if not body.wishes.truncate:
        return await served.prompts.raw(body.inputs, "inputs")
    ids = await served.prompts.latest(body.inputs, body.wishes.max_new_tokens or 100)
    return ids[-body.wishes.truncate :]


async def _generated(service: Service, body: GenerateBody, caller: Caller) -> dict[str, Any]:
    served = service.model(body.wishes.adapter_id, exact=True)
    prompt = await _prompt(served, body)
    sampling = body.sampling(served, prompt)
    tried = independent(sampling, body.wishes.best_of or 1)
    answers = await together(service.complete(served, prompt, one, caller) for one in tried)
    best = max(answers, key=lambda answer: answer.mean_logprob)
    text = body.inputs + best.text if body.wishes.return_full_text else best.text
    if not (body.wishes.details or body.wishes.decoder_input_details):
        return {"generated_text": text}
    return {"generated_text": text, "details": _details(served, prompt, best, sampling)}


def _details(served: Served, prompt: list[int], answer: Completion, sampling: Sampling) -> dict[str, Any]:
    known: list[dict[str, Any]] = []
    if sampling.prompt_logprobs:
        texts = [served.tokenizer.decode([token], skip_special=False) for token in prompt]
        scores = [None, *(one.logprob for one in answer.prompt)]
        known = [{"id": i, "text": t, "logprob": s} for i, t, s in zip(prompt, texts, scores, strict=True)]
    made = [_token(served, one, served.tokenizer.decode([one.token], skip_special=False)) for one in answer.scored]
    return {
        "finish_reason": FINISH[answer.finish],
        "generated_tokens": len(made),
        "seed": sampling.seed if sampling.temperature else None,
        "prefill": known,
        "tokens": made,
        "top_tokens": [_top(served, one) for one in answer.scored] if sampling.top_logprobs else [],
    }


def _token(served: Served, scored: Scored, text: str) -> dict[str, Any]:
    special = scored.token in served.tokenizer.special_ids.values()
    return {"id": scored.token, "text": text, "logprob": scored.logprob, "special": special}


def _top(served: Served, scored: Scored) -> list[dict[str, Any]]:
    return [_token(served, Scored(*one), served.tokenizer.decode([one[0]], skip_special=False)) for one in scored.top]


async def _chunks(
    served: Served, body: GenerateBody, prompt: list[int], sampling: Sampling, batches: AsyncIterator[list[Event]]
) -> AsyncIterator[str]:
    whole, index = body.inputs if body.wishes.return_full_text else "", 0
    async for batch in batches:
        lines = []
        for event in batch:
            whole += event.text
            index += event.scored is not None
            lines.append(_line(served, sampling, prompt, event, index, whole))
        yield "".join(lines)


def _line(served: Served, sampling: Sampling, prompt: list[int], event: Event, index: int, whole: str) -> str:
    # without a token the deadline has passed
    scored = Scored(prompt[-1], 0.0) if event.scored is None else event.scored
    line: dict[str, Any] = {"index": index, "token": _token(served, scored, event.text)}
    if sampling.top_logprobs:
        line["top_tokens"] = _top(served, scored)
    finish = {"finish_reason": FINISH[event.finish], "generated_tokens": index} if event.finish else None
    seed = {"seed": sampling.seed if sampling.temperature else None, "input_length": len(prompt)}
    return sse(line | {"generated_text": whole if event.finish else None, "details": finish and {**finish, **seed}})


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    status = STATUSES.get(problem.status, problem.status)
    return status, {"error": problem.message, "error_type": KINDS.get(status, "validation")}


DIALECT = Dialect(
    "text-generation-inference", router, ("/", "/generate", "/generate_stream"), _shape, nested=("parameters",)
)
