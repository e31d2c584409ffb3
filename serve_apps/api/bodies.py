"""Request bodies of the dialects, and what they mean to the engine."""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from serve_apps.engine.request import Sampling
from starloom.tokenizer import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, CodeTokenizer

Stop = Annotated[list[str], Field(max_length=16)]
SUFFIX_SHARE = 4  # when a document does not fit, the text after the cursor gets one part in four


class CompletionBody(BaseModel):
    """OpenAI's /v1/completions. `logprobs` may be 0: those of the chosen tokens."""

    model: str | None = None
    prompt: str | list[str] | list[int]
    suffix: str | None = None
    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stop: str | Stop | None = None
    seed: int | None = Field(None, ge=0)
    logprobs: Literal[0] | None = None
    echo: bool = False

    def prompts(self) -> list[str | list[int]]:
        """Each prompt of the request."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [text for text in self.prompt if isinstance(text, str)]
        return [*texts] if texts else [[token for token in self.prompt if isinstance(token, int)]]

    def sampling(self) -> Sampling:
        """How to sample; without a seed, a fresh one."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = secrets.randbits(48) if self.seed is None else self.seed
        return Sampling(self.max_tokens, self.temperature, self.top_p, 0, seed, tuple(filter(None, stop)))


class Parameters(BaseModel):
    """`parameters` of text-generation-inference."""

    max_new_tokens: int = Field(100, ge=1)
    temperature: float | None = Field(None, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, gt=0)
    do_sample: bool = False
    seed: int | None = Field(None, ge=0)
    stop: Stop = []
    return_full_text: bool | None = False
    details: bool = False


class GenerateBody(BaseModel):
    """text-generation-inference's /generate."""

    inputs: str
    parameters: Parameters = Parameters()
    stream: bool = False

    def sampling(self) -> Sampling:
        """Greedy unless sampling is asked for, as that server does."""
        p = self.parameters
        sampled = p.do_sample or p.temperature is not None or p.top_p is not None or p.top_k is not None
        temperature = (p.temperature or 1.0) if sampled else 0.0
        seed = secrets.randbits(48) if p.seed is None else p.seed
        stop = tuple(filter(None, p.stop))
        return Sampling(p.max_new_tokens, temperature, p.top_p or 1.0, p.top_k or 0, seed, stop)


def infilling_prompt(tokenizer: CodeTokenizer, prefix: str, suffix: str, room: int) -> list[int]:
    """Prefix, suffix, middle: at most `room` ids, what is farthest from the cursor cut away.

    Raises:
        ValueError: there is no room for the three sentinels and a token.
    """
    room -= 3
    if room < 1:
        raise ValueError("max_tokens leaves no room for the document; ask for fewer")
    before, after = tokenizer.encode(prefix), tokenizer.encode(suffix)
    after = after[: max(room // SUFFIX_SHARE, room - len(before))]
    before = before[max(0, len(before) - (room - len(after))) :]
    marks = [tokenizer.special(name) for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)]
    return [marks[0], *before, marks[1], *after, marks[2]]


def openai_error(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """OpenAI's error, with the `detail` that llm-ls parses beside it."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return {"error": error, "detail": [{"loc": "body", "msg": message, "type": kind}]}
