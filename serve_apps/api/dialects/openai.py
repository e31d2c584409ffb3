"""OpenAI's dialect: completions (with a working `suffix`) and models here, chat and responses in files beside it.

Tabby's completions share the path of these.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Discriminator, Field, Tag

from serve_apps.api.attributed import AttributedChoices
from serve_apps.api.dialects import openai_chat, openai_responses
from serve_apps.api.dialects.dialect import Dialect
from serve_apps.api.dialects.openai_fields import (
    MOST_CHOICES,
    MOST_LOGPROBS,
    SamplingBody,
    begun,
    finish_reason,
    head,
    logprobs_of,
    usage,
)
from serve_apps.api.dialects.openai_stream import ChoicesAsked, chunked
from serve_apps.api.dialects.tabby import TabbyBody, tabby_completion
from serve_apps.api.errors import Problem
from serve_apps.api.fields import Fields
from serve_apps.api.prompts import Document, OtherFile
from serve_apps.api.service import Caller, Completion, Served, Service, together, while_connected
from serve_apps.api.streaming import streamed
from serve_apps.attributor import TAIL
from serve_apps.engine.request import Event, Sampling, Scored

Ids = Annotated[list[int], Field(max_length=1 << 20)]
MOST_AT_ONCE = 64
MOST_LINES = 10_000


class ExtraContext(Fields):
    """A piece of another file."""

    HARMLESS = frozenset({"time"})
    text: str
    filename: str | None = None

    def other(self) -> OtherFile:
        """As the prompt has it."""
        return OtherFile(self.text, self.filename or "")


class CompletionBody(SamplingBody):
    """/v1/completions. Our own: `extra_context`, what changes least first; `filepath`; `max_lines`."""

    HARMLESS = frozenset({"language"})
    REFUSED = {"prompt_embeds": (), "add_special_tokens": (True,)}
    prompt: (
        str | Annotated[list[str], Field(max_length=64)] | Ids | Annotated[list[Ids], Field(max_length=64)] | None
    ) = None
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: bool | None = False
    extra_context: list[ExtraContext] | None = Field(None, max_length=256)
    filepath: str | None = Field(None, max_length=1024)
    max_lines: int | None = Field(None, ge=1, le=MOST_LINES)

    def prompts(self) -> list[str | list[int]]:
        """Each prompt of the request.

        Raises:
            Problem: there is none.
        """
        if self.prompt is None:
            raise Problem(400, "prompt: is missing; send text")
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise Problem(400, "prompt: is empty; send at least one text")
        if isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]

    @property
    def builds(self) -> bool:
        """Whether the prompt is text to be arranged, in which no special token is meant."""
        return self.suffix is not None or bool(self.extra_context) or bool(self.filepath)


def _spoken(body: Any) -> str:
    return "tabby" if isinstance(body, dict) and body.get("segments") is not None else "openai"


AnyCompletion = Annotated[
    Annotated[TabbyBody, Tag("tabby")] | Annotated[CompletionBody, Tag("openai")], Discriminator(_spoken)
]


def router(service: Service) -> APIRouter:
    """The routes."""
    api = APIRouter(tags=["OpenAI"])

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What is served."""
        return {"object": "list", "data": [_card(service, served) for served in service.models.values()]}

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return _card(service, service.model(name, exact=True))

    @api.post("/v1/completions", response_model=None)
    async def completions(body: AnyCompletion, request: Request) -> Response | dict[str, Any]:
        """Text that follows the prompt, or fills the gap before `suffix`."""
        caller = service.caller(request)
        if isinstance(body, TabbyBody):
            return await while_connected(request, tabby_completion(service, body, caller))
        return await _completions(service, service.model(body.model), body, caller, request)

    api.include_router(openai_chat.router(service, DIALECT))
    api.include_router(openai_responses.router(service, DIALECT))
    return api


def _card(service: Service, served: Served) -> dict[str, Any]:
    window = {"max_model_len": served.engine.context}
    can = {"infilling": served.prompts.infills, "extra_context": True, "attribution": service.attributor is not None}
    can["chat"] = served.chat_template is not None
    return {"id": served.name, "object": "model", "created": 0, "owned_by": "starloom", **window, **can}


def _checked(body: CompletionBody) -> tuple[int, int, int]:
    """How many choices are told, how many are tried, and how many tokens each may have.

    Raises:
        Problem: what is asked for goes not together.
    """
    n, echo = body.n or 1, bool(body.echo)
    tried = n if body.best_of is None else body.best_of
    wanted = 16 if body.max_tokens is None else body.max_tokens
    if tried < n:
        raise Problem(400, f"best_of: is less than n = {n}; ask for at least as many")
    if not wanted and not echo:
        raise Problem(400, "max_tokens: is 0 and echo is off; there is nothing to answer")
    if body.stream and tried > n:
        raise Problem(400, "best_of: goes not with a stream; ask for the whole answer")
    if echo and body.logprobs is not None and (body.stream or body.builds):
        raise Problem(400, "logprobs: of a prompt go neither with a stream nor with suffix or other files")
    if len(body.prompts()) * tried > MOST_AT_ONCE:
        raise Problem(400, f"n: prompts × choices exceed {MOST_AT_ONCE}; send several requests")
    return n, tried, wanted


async def _completions(
    service: Service, served: Served, body: CompletionBody, caller: Caller, request: Request
) -> Response | dict[str, Any]:
    n, tried, wanted = _checked(body)
    prompts = [await _ids(served, prompt, body, wanted) for prompt in body.prompts()]
    sampling = [_sampling(served, body, prompt, wanted) for prompt in prompts]
    attributor, texts = service.attribution(body.attribution), _texts(served, body)
    opening = head("cmpl", "text_completion", served)
    if body.stream:
        attributed = AttributedChoices(attributor, body.attribution, texts, choices=n)
        asked = ChoicesAsked(served, prompts, n, sampling, caller)
        chunks = await chunked(service, asked, _Chunks(served, opening, body, n), attributed)
        return streamed(DIALECT, chunks)
    jobs = ChoicesAsked(served, prompts, tried, sampling, caller).jobs()
    work = together(service.complete(served, *job, caller) for job in jobs)
    answers = await while_connected(request, work)
    attributed = AttributedChoices(attributor, body.attribution, texts)
    choices: list[dict[str, Any]] = []
    cached = 0
    for number, prompt in enumerate(prompts):
        group = answers[number * tried : (number + 1) * tried]
        cached += max(answer.cached for answer in group)
        if tried > n:
            group = sorted(group, key=lambda answer: -answer.mean_logprob)
        for answer in group[:n]:
            shown = answer if wanted else Completion("", [], "length", answer.prompt)
            choices.append(_choice(served, len(choices), number, prompt, shown, body))
            kept = await attributed.of(number, shown.text)
            if kept.blocks:
                choices[-1] |= {"text": "", "logprobs": None, "finish_reason": "content_filter"}
            choices[-1] |= kept.told
    made = sum(len(answer.scored) for answer in answers) if wanted else 0
    return {**opening, "choices": choices, "usage": usage(sum(map(len, prompts)), made, cached)}


def _sampling(served: Served, body: CompletionBody, prompt: list[int], wanted: int) -> Sampling:
    return body.sampled(
        served,
        served.answer(prompt, wanted),
        max_lines=body.max_lines or 0,
        top_logprobs=body.logprobs or 0,
        prompt_logprobs=bool(body.echo) and body.logprobs is not None,
    )


def _texts(served: Served, body: CompletionBody) -> list[str]:
    """The prompts as text, where answers are looked up with them."""
    if body.attribution is None:
        return []
    return [one if isinstance(one, str) else served.tokenizer.decode(one[-TAIL:]) for one in body.prompts()]


async def _ids(served: Served, prompt: str | list[int], body: CompletionBody, wanted: int) -> list[int]:
    if isinstance(prompt, list):
        if body.builds:
            raise Problem(400, "prompt: ids go with neither suffix nor other files; send text")
        return served.prompts.fitting(served.prompts.known(prompt))
    if not body.builds:
        return await served.prompts.raw(prompt)
    others = [extra.other() for extra in body.extra_context or ()]
    return await served.prompts.document(Document(prompt, body.suffix, others, body.filepath or ""), wanted)


def _echoed(served: Served, number: int, prompt: list[int] | None, body: CompletionBody) -> str:
    """A prompt as it was sent, where it is told again."""
    if not body.echo:
        return ""
    sent = body.prompts()[number]
    return sent if isinstance(sent, str) else served.tokenizer.decode(prompt or sent, skip_special=False)


def _choice(
    served: Served, index: int, number: int, prompt: list[int], answer: Completion, body: CompletionBody
) -> dict[str, Any]:
    logprobs = None
    if body.logprobs is not None:
        first = [Scored(prompt[0], 0.0)] if body.echo else []
        logprobs = logprobs_of(served, [*first, *answer.prompt, *answer.scored], 0)
        if first:  # nothing comes before it: it has no probability
            logprobs["token_logprobs"][0] = logprobs["top_logprobs"][0] = None
    text = _echoed(served, number, prompt, body) + answer.text
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason(answer.finish)}


class _Chunks:
    """Chunks of a streamed completion."""

    def __init__(self, served: Served, opening: dict[str, Any], body: CompletionBody, n: int) -> None:
        self._served, self.head, self._body, self._n = served, opening, body, n
        self._offsets: dict[int, int] = {}
        self.usage = bool(body.stream_options and body.stream_options.include_usage)

    def opening(self, choices: int) -> list[dict[str, Any]]:
        """The prompts, where they are to be told again."""
        texts = [_echoed(self._served, index // self._n, None, self._body) for index in range(choices)]
        empty = {"logprobs": None, "finish_reason": None}
        return [{"index": index, "text": text, **empty} for index, text in enumerate(texts) if text]

    def blocked(self, index: int) -> dict[str, Any]:
        """The choice in the place of one that is kept back."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": "content_filter"}

    def choice(self, index: int, event: Event) -> dict[str, Any] | None:
        """The choice of one event; None when it tells nothing yet."""
        logprobs = None
        if event.scored is not None and self._body.logprobs is not None:
            offset = self._offsets.get(index, 0)
            logprobs = logprobs_of(self._served, [event.scored], offset)
            self._offsets[index] = offset + begun(self._served, event.scored.token)
        if not (event.text or event.finish or logprobs):
            return None
        return {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": finish_reason(event.finish)}


def shape(problem: Problem) -> tuple[int, dict[str, Any]]:
    """An error as OpenAI's clients read it, and as llm-ls does."""
    error = {"message": problem.message, "type": problem.kind, "param": problem.field, "code": problem.code}
    # llm-ls parses `detail` only, with a scalar `loc`
    detail = [{"loc": problem.field or "body", "msg": problem.message, "type": problem.kind}]
    return problem.status, {"error": error, "detail": detail}


DIALECT = Dialect("OpenAI", router, ("/v1/*",), shape, nested=("stream_options", "response_format"))
