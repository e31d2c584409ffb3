"""OpenAI's dialect: completions (with a working `suffix`), chat, models. Tabby's completions share the first path."""

import dataclasses
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from serve_apps.api.attributed import AttributedChoices
from serve_apps.api.chat import chat_prompt
from serve_apps.api.dialects.dialect import Dialect, sse
from serve_apps.api.dialects.tabby import Segments, tabby_completion
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Message, Stop, StopText
from serve_apps.api.prompts import infilling_prompt, prompt_ids
from serve_apps.api.service import (
    Caller,
    Completion,
    Served,
    Service,
    all_started,
    independent,
    merged,
    together,
    while_connected,
)
from serve_apps.api.streaming import streamed
from serve_apps.attributor import TAIL, Wish
from serve_apps.engine.request import Event, Sampling, Scored
from starloom.tokenizer import END_OF_TEXT

Ids = Annotated[list[int], Field(max_length=1 << 20)]
MOST_CHOICES = 16
FINISH = {"end": "stop", "deadline": "length"}


class StreamOptions(BaseModel):
    """What a stream tells besides text."""

    include_usage: bool = False


class SamplingBody(BaseModel):
    """What completions and chat have in common; `top_k`, `repetition_penalty` and `ignore_eos` are vLLM's additions."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: StopText | Stop | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    ignore_eos: bool = False
    attribution: Wish | None = None  # look answers up in the corpus: tell, or keep back what stands there

    def sampled(self, max_tokens: int, **more: Any) -> Sampling:
        """How to sample; without a seed, a fresh one."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            seed=secrets.randbits(48) if self.seed is None else self.seed,
            stop=tuple(filter(None, stop)),
            ignore_end=self.ignore_eos,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            **more,
        )


class CompletionBody(SamplingBody):
    """/v1/completions; with `segments` it is Tabby's."""

    prompt: (
        str | Annotated[list[str], Field(max_length=64)] | Ids | Annotated[list[Ids], Field(max_length=64)] | None
    ) = None
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = False
    language: str | None = None
    segments: Segments | None = None

    def prompts(self) -> list[str | list[int]]:
        """Each prompt of the request.

        Raises:
            Problem: there is none.
        """
        if self.prompt is None:
            raise Problem(400, "prompt: is missing; send text")
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]


class ChatBody(SamplingBody):
    """/v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["OpenAI"])

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is served."""
        return {"object": "list", "data": [_card(served) for served in service.models.values()]}

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return _card(service.model(name, exact=True))

    @api.post("/v1/completions", response_model=None)
    async def completions(body: CompletionBody, request: Request) -> Response | dict[str, Any]:
        """Text that follows the prompt, or fills the gap before `suffix`."""
        caller = service.caller(request)
        if body.segments is not None:
            return await while_connected(request, tabby_completion(service, body.model, body.segments, caller))
        served = service.model(body.model)
        return await _completions(service, served, body, caller, request)

    @api.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response | dict[str, Any]:
        """The assistant's next turn."""
        served, caller = service.model(body.model), service.caller(request)
        return await _chat(service, served, body, caller, request)

    return api


def _card(served: Served) -> dict[str, Any]:
    window = {"max_model_len": served.engine.context}
    return {"id": served.name, "object": "model", "created": 0, "owned_by": "starloom", **window}


async def _completions(
    service: Service, served: Served, body: CompletionBody, caller: Caller, request: Request
) -> Response | dict[str, Any]:
    n, echo = body.n or 1, bool(body.echo)
    tried = max(body.best_of or n, n)
    wanted = 16 if body.max_tokens is None else body.max_tokens
    if not wanted and not echo:
        raise Problem(400, "max_tokens: is 0 and echo is off; there is nothing to answer")
    prompts = [_ids(served, prompt, body, wanted) for prompt in body.prompts()]
    if not prompts:
        raise Problem(400, "prompt: is empty; send at least one text")
    if len(prompts) * tried > 64:
        raise Problem(400, "n: prompts × choices exceed 64; send several requests")
    head = _head("cmpl", "text_completion", served)
    scores = {"top_logprobs": body.logprobs or 0, "prompt_logprobs": echo and body.logprobs is not None}
    sampling = body.sampled(max(wanted, 1), **scores)
    if body.stream:
        if tried > n or echo:
            raise Problem(400, "stream: goes with neither echo nor best_of; ask for the whole answer")
        attributed = AttributedChoices(
            service.attribution(body.attribution),
            body.attribution,
            _texts(served, body),
            choices=n,
        )
        chunks = _CompletionChunks(served, head, body)
        return await _stream(service, served, prompts, n, sampling, caller, chunks, attributed)
    work = together(
        service.complete(served, prompt, s, caller) for prompt in prompts for s in independent(sampling, tried)
    )
    answers = await while_connected(request, work)
    choices: list[dict[str, Any]] = []
    attributed = AttributedChoices(
        service.attribution(body.attribution),
        body.attribution,
        _texts(served, body),
    )
    for number, prompt in enumerate(prompts):
        group = answers[number * tried : (number + 1) * tried]
        if tried > n:
            group = sorted(group, key=lambda answer: -answer.mean_logprob)
        for answer in group[:n]:
            shown = answer if wanted else Completion("", [], "length", answer.prompt)
            choices.append(_choice(served, len(choices), prompt, shown, body))
            kept = await attributed.of(number, shown.text)
            if kept.blocks:
                choices[-1] |= {"text": "", "logprobs": None, "finish_reason": "content_filter"}
            choices[-1] |= kept.told
    made = sum(len(answer.scored) for answer in answers) if wanted else 0
    return {**head, "choices": choices, "usage": _usage(sum(map(len, prompts)), made)}


def _texts(served: Served, body: CompletionBody) -> list[str]:
    """The prompts as text, where answers are looked up with them."""
    if body.attribution is None:
        return []
    return [one if isinstance(one, str) else served.tokenizer.decode(one[-TAIL:]) for one in body.prompts()]


def _ids(served: Served, prompt: str | list[int], body: CompletionBody, wanted: int) -> list[int]:
    size = served.tokenizer.size
    if isinstance(prompt, list):
        if any(not 0 <= token < size for token in prompt):
            raise Problem(400, f"prompt: ids must lie in 0..{size - 1}")
        return prompt
    if body.suffix:
        room = served.engine.context - wanted
        return infilling_prompt(served.tokenizer, prompt, body.suffix, room, served.fim_order)
    # as in training, a document begins after an end of text
    return prompt_ids(served.tokenizer, prompt) or [served.tokenizer.special(END_OF_TEXT)]


def _head(prefix: str, kind: str, served: Served) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": served.name}


def _usage(prompt: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _finish(reason: str | None) -> str | None:
    return reason and FINISH.get(reason, reason)


def _choice(served: Served, index: int, prompt: list[int], answer: Completion, body: CompletionBody) -> dict[str, Any]:
    before = served.tokenizer.decode(prompt, skip_special=False) if body.echo else ""
    logprobs = None
    if body.logprobs is not None:
        first = [Scored(prompt[0], 0.0)] if body.echo else []
        logprobs = _logprobs(served, [*first, *answer.prompt, *answer.scored], 0)
        if first:  # nothing comes before it: it has no probability
            logprobs["token_logprobs"][0] = logprobs["top_logprobs"][0] = None
    return {"index": index, "text": before + answer.text, "logprobs": logprobs, "finish_reason": _finish(answer.finish)}


def _logprobs(served: Served, scored: Sequence[Scored], offset: int) -> dict[str, Any]:
    def text(token: int) -> str:
        return served.tokenizer.decode([token], skip_special=False)

    texts = [text(one.token) for one in scored]
    offsets = [offset + sum(map(len, texts[:n])) for n in range(len(texts))]
    top = [{text(token): logprob for token, logprob in one.top} for one in scored]
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": top,
        "text_offset": offsets,
    }


class _CompletionChunks:
    """Chunks of a streamed completion."""

    def __init__(self, served: Served, head: dict[str, Any], body: CompletionBody) -> None:
        self._served, self.head, self._body = served, head, body
        self._offsets: dict[int, int] = {}
        self.usage = bool(body.stream_options and body.stream_options.include_usage)

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """Nothing comes before the first token."""
        return []

    def blocked(self, index: int) -> dict[str, Any]:
        """The choice in the place of one that is kept back."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": "content_filter"}

    def choice(self, index: int, event: Event) -> dict[str, Any] | None:
        """The choice of one event; None when it tells nothing yet."""
        logprobs = None
        if event.scored is not None and self._body.logprobs is not None:
            offset = self._offsets.get(index, 0)
            logprobs = _logprobs(self._served, [event.scored], offset)
            self._offsets[index] = offset + len(logprobs["tokens"][0])
        if not (event.text or event.finish or logprobs):
            return None
        return {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": _finish(event.finish)}


class _ChatChunks:
    """Chunks of a streamed turn."""

    def __init__(self, served: Served, head: dict[str, Any], body: ChatBody) -> None:
        self._served, self.head, self._body = served, head, body
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
        logprobs = None
        if event.scored is not None and self._body.logprobs:
            logprobs = {"content": [_chat_score(self._served, event.scored)]}
        if not (event.text or event.finish or logprobs):
            return None
        delta = {"content": event.text} if event.text else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": _finish(event.finish)}


async def _stream(
    service: Service,
    served: Served,
    prompts: list[list[int]],
    n: int,
    sampling: Sampling,
    caller: Caller,
    chunks: _CompletionChunks | _ChatChunks,
    attributed: AttributedChoices,
) -> Response:
    jobs = [(prompt, one) for prompt in prompts for one in independent(sampling, n)]
    # all are queued, and each one's first token awaited, before the answer's head is sent
    streams = await all_started([service.batches(served, *job, caller) for job in jobs])
    used = sum(map(len, prompts))

    async def sent() -> AsyncIterator[str]:
        made = 0
        held = "".join(sse({**chunks.head, "choices": [choice]}) for choice in chunks.opening(len(jobs)))
        unfinished = len(jobs)
        texts, waiting = [""] * len(jobs), [[] for _ in jobs]  # type: list[str], list[list[dict[str, Any]]]
        async for index, batch in merged(streams):
            made += sum(event.scored is not None for event in batch)
            texts[index] += "".join(event.text for event in batch)
            told = [choice for choice in (chunks.choice(index, event) for event in batch) if choice]
            if attributed.holds:
                waiting[index] += told
                told = []
            if batch[-1].finish:
                kept = await attributed.of(index // attributed.choices, texts[index])
                told = [*waiting[index], *told]
                told = [chunks.blocked(index)] if kept.blocks else told
                told[-1] |= kept.told
            held += "".join(sse({**chunks.head, "choices": [choice]}) for choice in told)
            unfinished -= batch[-1].finish is not None
            if held and unfinished:
                yield held
                held = ""
        if chunks.usage:
            held += sse({**chunks.head, "choices": [], "usage": _usage(used, made)})
        yield held + "data: [DONE]\n\n"

    return streamed(DIALECT, sent())


async def _chat(
    service: Service, served: Served, body: ChatBody, caller: Caller, request: Request
) -> Response | dict[str, Any]:
    prompt, stops = chat_prompt(served, [message.plain() for message in body.messages])
    room = served.engine.context - len(prompt)
    wanted = body.max_completion_tokens or body.max_tokens or min(room, 512)
    top = body.top_logprobs if body.logprobs and body.top_logprobs else 0
    sampling = body.sampled(wanted, top_logprobs=top)
    sampling = dataclasses.replace(sampling, stop=(*sampling.stop, *stops))
    n = body.n or 1
    attributed = AttributedChoices(service.attribution(body.attribution), body.attribution, ())
    if body.stream:
        head = _head("chatcmpl", "chat.completion.chunk", served)
        chunks = _ChatChunks(served, head, body)
        return await _stream(service, served, [prompt], n, sampling, caller, chunks, attributed)
    work = together(service.complete(served, prompt, one, caller) for one in independent(sampling, n))
    answers = await while_connected(request, work)
    choices = [
        {
            "index": number,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": {"content": [_chat_score(served, s) for s in answer.scored]} if body.logprobs else None,
            "finish_reason": _finish(answer.finish),
        }
        for number, answer in enumerate(answers)
    ]
    for choice, answer in zip(choices, answers, strict=True):
        kept = await attributed.of(0, answer.text)
        if kept.blocks:
            message = {"role": "assistant", "content": ""}
            choice |= {"message": message, "logprobs": None, "finish_reason": "content_filter"}
        choice |= kept.told
    made = sum(len(answer.scored) for answer in answers)
    return {**_head("chatcmpl", "chat.completion", served), "choices": choices, "usage": _usage(len(prompt), made)}


def _chat_score(served: Served, scored: Scored) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = served.tokenizer.decode_bytes([token])
        return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}

    return {**entry(scored.token, scored.logprob), "top_logprobs": [entry(*one) for one in scored.top]}


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    error = {"message": problem.message, "type": problem.kind, "param": problem.field, "code": None}
    # llm-ls parses `detail` only, with a scalar `loc`
    detail = [{"loc": problem.field or "body", "msg": problem.message, "type": problem.kind}]
    return problem.status, {"error": error, "detail": detail}


DIALECT = Dialect("OpenAI", router, ("/v1/*",), _shape)
