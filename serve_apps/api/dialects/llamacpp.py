"""llama.cpp's dialect: `/infill` as llama.vim and llama.vscode send it, `/completion`, `/props`, `/tokenize`."""

import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field

from serve_apps.api.dialects.dialect import Dialect, sse
from serve_apps.api.dialects.openai import ExtraContext
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Bias, Fields, Stop, biases, repetition_of, words
from serve_apps.api.formats import Schema, of_schema, only
from serve_apps.api.prompts import Document, beside_the_loop, whole
from serve_apps.api.service import Completion, Served, Service, gathered, started, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.engine.grammar import Grammar
from serve_apps.engine.request import Event, Sampling, drawn_seed

TYPES = {"length": "limit", "deadline": "limit", "end": "eos", "stop": "word"}
USUAL_TOKENS = 128


class LlamaBody(Fields):
    """What `/infill` and `/completion` have in common. n_predict 0 warms the cache."""

    HARMLESS = frozenset(
        {
            "model",
            "cache_prompt",
            "id_slot",
            "slot_id",
            "t_max_prompt_ms",
            "min_keep",
            "n_cache_reuse",
        }
        | {"timings_per_token", "return_progress", "post_sampling_probs", "dry_base", "dry_allowed_length"}
        | {"dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold", "mirostat_tau", "mirostat_eta"}
        | {"dynatemp_exponent", "penalize_nl", "penalty_prompt", "api_key"}
    )
    REFUSED = {
        "dry_multiplier": (0, 0.0),
        "xtc_probability": (0, 0.0),
        "mirostat": (0,),
        "dynatemp_range": (0, 0.0),
        "top_n_sigma": (-1, -1.0, 0, 0.0),
        "tfs_z": (1, 1.0),
        "n_keep": (0, -1),
        "n_discard": (0,),
        "image_data": (),
        "lora": (),
        "return_tokens": (),
    }
    n_predict: int | None = Field(None, ge=-2)
    temperature: float | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0.01, le=10)
    repeat_last_n: int | None = Field(None, ge=-1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Bias | list[tuple[int, float | bool]] | None = None
    grammar: str | None = None
    json_schema: Schema | None = None
    ignore_eos: bool = False
    n_probs: int | None = Field(None, ge=0, le=20)
    seed: int | None = Field(None, ge=-1, lt=1 << 63)
    stop: Stop | None = None
    n_indent: int | None = Field(None, ge=0, le=1024)
    t_max_predict_ms: float | None = Field(None, ge=0)
    response_fields: list[Annotated[str, Field(max_length=64)]] | None = Field(None, max_length=64)
    stream: bool | None = False

    @property
    def asked(self) -> int:
        """Tokens of the answer; -1 and -2 stand for as many as is usual."""
        return USUAL_TOKENS if self.n_predict is None or self.n_predict < 0 else max(1, self.n_predict)

    def sampling(self, served: Served, prompt: list[int]) -> Sampling:
        """That server's defaults where nothing is said.

        Raises:
            Problem: an id is none of the model's.
            ValueError: a grammar and a schema are asked for at once.
        """
        forms = [Grammar("grammar", self.grammar)] if self.grammar else []
        forms += [of_schema(self.json_schema)] if self.json_schema is not None else []
        repetition = repetition_of(self.repeat_penalty, self.repeat_last_n)
        return Sampling(
            max_tokens=served.answer(prompt, self.asked),
            temperature=0.8 if self.temperature is None else self.temperature,
            top_p=self.top_p or 0.95,
            top_k=40 if self.top_k is None else max(0, self.top_k),
            min_p=0.05 if self.min_p is None else self.min_p,
            typical_p=self.typical_p or 1.0,
            seed=drawn_seed() if self.seed is None or self.seed < 0 else self.seed,
            stop=words(self.stop),
            min_indent=self.n_indent or 0,
            repetition_penalty=repetition.penalty,
            penalty_window=repetition.window,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            bias=self._bias(served),
            grammar=only(forms),
            ignore_end=self.ignore_eos,
            top_logprobs=self.n_probs or 0,
        )

    def _bias(self, served: Served) -> tuple[tuple[int, float], ...]:
        if isinstance(self.logit_bias, list):  # false forbids a token
            made = {str(token): -100.0 if value is False else float(value) for token, value in self.logit_bias}
            return biases(served.tokenizer, made)
        return biases(served.tokenizer, self.logit_bias)


class InfillBody(LlamaBody):
    """/infill: the text around the cursor; `prompt` is the cursor's line before it."""

    HARMLESS = frozenset({"samplers"})  # llama.vim's own order of them
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraContext] | None = Field(None, max_length=256)
    prompt: str | None = None


class LlamaCompletionBody(LlamaBody):
    """/completion."""

    REFUSED = {"samplers": (), "n_cmpl": (1,)}
    prompt: str | Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1 << 20)]


class TokenizeBody(Fields):
    """llama.cpp's `content`, vLLM's `prompt`, or text-generation-inference's `inputs`."""

    HARMLESS = frozenset({"add_special", "add_special_tokens"})  # nothing is added
    REFUSED = {"with_pieces": (), "return_token_strs": (), "messages": ()}
    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    inputs: str | None = None
    parse_special: bool = True


class DetokenizeBody(Fields):
    """Ids to be text again."""

    model: str | None = None
    tokens: list[int] = Field(max_length=1 << 20)


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["llama.cpp"])

    @api.post("/infill", response_model=None)
    async def infill(body: InfillBody, request: Request) -> Response | dict[str, Any]:
        """The text at the cursor."""
        served = service.model(None)
        others = [extra.other() for extra in body.input_extra or ()]
        document = Document(body.input_prefix + (body.prompt or ""), body.input_suffix, others)
        prompt = await served.prompts.document(document, min(body.asked, served.engine.context // 4))
        return await _answered(service, served, body, prompt, request)

    @api.post("/completion", response_model=None)
    @api.post("/completions", response_model=None, include_in_schema=False)
    async def completion(body: LlamaCompletionBody, request: Request) -> Response | dict[str, Any]:
        """Text that follows the prompt, special tokens recognized."""
        served = service.model(None)
        if isinstance(body.prompt, str):
            prompt = await served.prompts.raw(body.prompt)
        else:
            prompt = served.prompts.fitting(served.prompts.known(body.prompt))
        return await _answered(service, served, body, prompt, request)

    @api.get("/props")
    async def props() -> dict[str, Any]:
        """What clients ask about the window."""
        return _props(service.model(None))

    @api.post("/tokenize", response_model=None)
    async def tokenize(body: TokenizeBody) -> Any:
        """Ids of a text, special tokens recognized; the shape is that of whose field was sent."""
        return await _tokenized(service, body)

    @api.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, str]:
        """Text of ids."""
        served = service.model(body.model)
        return {"content": served.tokenizer.decode(served.prompts.known(body.tokens, "tokens"), skip_special=False)}

    @api.get("/tokenizer.json", response_class=PlainTextResponse)
    async def tokenizer() -> Response:
        """The first model's tokenizer, for clients that count tokens themselves."""
        return Response(service.model(None).tokenizer.json_text, media_type="application/json")

    return api


def _props(served: Served) -> dict[str, Any]:
    return {
        "default_generation_settings": {"n_ctx": served.engine.context, "model": served.name},
        "total_slots": served.engine.load.places,
        "model_path": served.name,
        "model_alias": served.name,
        "chat_template": served.chat_template or "",
        "modalities": {"vision": False, "audio": False},
        "build_info": "starloom",
    }


async def _answered(
    service: Service, served: Served, body: LlamaBody, prompt: list[int], request: Request
) -> Response | dict[str, Any]:
    caller = service.caller(request)
    if body.t_max_predict_ms:
        until = time.monotonic() + body.t_max_predict_ms / 1000
        caller = dataclasses.replace(caller, deadline=min(until, caller.deadline or until))
    job, began = (served, prompt, body.sampling(served, prompt), caller), time.perf_counter()
    if not body.stream:
        answer = await while_connected(request, service.complete(*job))
        text = "" if body.n_predict == 0 else answer.text
        return _chosen(_last(served, text, answer, len(prompt), began, body), body.response_fields)
    batches = await started(service.batches(*job))

    async def chunks() -> AsyncIterator[str]:
        kept: list[Event] = []
        async for batch in batches:
            kept += batch
            text = "".join(event.text for event in batch)
            if batch[-1].finish:
                yield sse(_last(served, text, gathered(kept), len(prompt), began, body))
            elif text:
                yield sse({"content": text, "stop": False})

    return streamed(DIALECT, chunks())


async def _tokenized(service: Service, body: TokenizeBody) -> Any:
    served = service.model(body.model)
    text = next((one for one in (body.content, body.prompt, body.inputs) if one is not None), None)
    if text is None:
        raise Problem(400, "content: is missing; send content, prompt or inputs")
    encode = served.tokenizer.encode_prompt if body.parse_special else served.tokenizer.encode
    ids = await beside_the_loop(len(whole(text, "content")), lambda: encode(text))
    if body.content is not None:
        return {"tokens": ids}
    if body.prompt is not None:
        return {"count": len(ids), "max_model_len": served.engine.context, "tokens": ids}
    return [{"id": i, "text": served.tokenizer.decode([i], skip_special=False)} for i in ids]


def _last(served: Served, text: str, answer: Completion, prompt: int, began: float, body: LlamaBody) -> dict[str, Any]:
    spent, made = (time.perf_counter() - began) * 1000, len(answer.scored)
    told: dict[str, Any] = {
        "content": text,
        "stop": True,
        "stop_type": TYPES[answer.finish],
        "stopping_word": answer.word,
        "model": served.name,
        "tokens_predicted": made,
        "tokens_evaluated": prompt,
        "tokens_cached": answer.cached,
        "truncated": False,
        "generation_settings": {"n_ctx": served.engine.context},
        "timings": {
            "prompt_n": prompt - answer.cached,
            "prompt_ms": 0.0,
            "prompt_per_second": 0.0,
            "predicted_n": made,
            "predicted_ms": spent,
            "predicted_per_second": 1000 * made / spent if spent else 0.0,
        },
    }
    if body.n_probs:
        told["completion_probabilities"] = [
            _probability(served, one.token, one.logprob, one.top) for one in answer.scored
        ]
    return told


def _probability(
    served: Served, token: int, logprob: float, top: Sequence[tuple[int, float]] | None = None
) -> dict[str, Any]:
    piece = served.tokenizer.decode_bytes([token])
    told: dict[str, Any] = {
        "id": token,
        "token": piece.decode("utf-8", "replace"),
        "bytes": list(piece),
        "logprob": logprob,
    }
    if top is not None:
        told["top_logprobs"] = [_probability(served, *one) for one in top]
    return told


def _chosen(told: dict[str, Any], fields: Sequence[str] | None) -> dict[str, Any]:
    """The fields that are asked for; one of an inner object stands under its own name, as that server has it."""
    if not fields:
        return told
    made = {}
    for name in fields:
        value: Any = told
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            made[name.rpartition("/")[2]] = value
    return made


def _shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    kind = "exceed_context_size_error" if problem.code == "context_length_exceeded" else problem.kind
    return problem.status, {"error": {"code": problem.status, "message": problem.message, "type": kind}}


PATHS = ("/infill", "/completion", "/completions", "/props", "/tokenize", "/detokenize")
DIALECT = Dialect("llama.cpp", router, PATHS, _shape)
