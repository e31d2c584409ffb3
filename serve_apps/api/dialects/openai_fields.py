"""What OpenAI's completions and its chat have in common, with vLLM's additions, and pieces of their answers."""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from serve_apps.api.fields import Bias, Fields, Stop, StopIds, StopText, biases, ids_in, words
from serve_apps.api.formats import ResponseFormat, Schema, StructuredOutputs, only
from serve_apps.api.service import Served
from serve_apps.attributor import Wish
from serve_apps.engine.grammar import Grammar
from serve_apps.engine.request import Sampling, Scored, drawn_seed

MOST_CHOICES = 16
MOST_LOGPROBS = 20
FINISH = {"end": "stop", "deadline": "length"}


class StreamOptions(Fields):
    """What a stream tells besides text."""

    HARMLESS = frozenset({"include_obfuscation"})
    REFUSED = {"continuous_usage_stats": ()}
    include_usage: bool = False


class SamplingBody(Fields):
    """What completions and chat have in common; what OpenAI has not is vLLM's, and `attribution` ours."""

    HARMLESS = frozenset(
        {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
        | {"request_id", "priority", "cache_salt", "spaces_between_special_tokens", "guided_decoding_backend"}
        | {"cache_prompt"}
    )
    REFUSED = {
        "use_beam_search": (),
        "length_penalty": (1, 1.0),
        "early_stopping": (),
        "bad_words": (),
        "guided_whitespace_pattern": (),
        "allowed_token_ids": (),
        "logits_processors": (),
        "truncate_prompt_tokens": (),
        "prompt_logprobs": (),
        "skip_special_tokens": (True,),
        "return_tokens_as_token_ids": (),
        "return_token_ids": (),
        "kv_transfer_params": (),
        "vllm_xargs": (),
        "repetition_detection": (),
        "thinking_token_budget": (),
    }
    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: StopText | Stop | None = None
    stop_token_ids: StopIds | None = None
    include_stop_str_in_output: bool = False
    min_tokens: int | None = Field(None, ge=0, le=1 << 20)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    logit_bias: Bias | None = None
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | Schema | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = Field(None, max_length=1000)
    guided_grammar: str | None = None
    attribution: Wish | None = None  # look answers up in the corpus: tell, or keep back what stands there

    def grammar(self) -> Grammar | None:
        """What the answer must be; ValueError when two things are asked for."""
        guided = {"json": self.guided_json, "regex": self.guided_regex, "grammar": self.guided_grammar}
        older = StructuredOutputs.model_validate({**guided, "choice": self.guided_choice or None})
        found = [*older.wanted(), *(self.structured_outputs.wanted() if self.structured_outputs else ())]
        own = self.response_format.grammar() if self.response_format else None
        return only([*found, *([own] if own else [])])

    def sampled(self, served: Served, max_tokens: int, **more: Any) -> Sampling:
        """How to sample; without a seed, a fresh one.

        Raises:
            Problem: an id is none of the model's.
            ValueError: the answer would have to be of two formats.
        """
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            typical_p=self.typical_p or 1.0,
            seed=drawn_seed() if self.seed is None else self.seed,
            stop=words(self.stop),
            stop_ids=ids_in(served.tokenizer, "stop_token_ids", self.stop_token_ids),
            include_stop=self.include_stop_str_in_output,
            min_tokens=self.min_tokens or 0,
            ignore_end=self.ignore_eos,
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            bias=biases(served.tokenizer, self.logit_bias),
            **{"grammar": self.grammar(), **more},
        )


def head(prefix: str, kind: str, served: Served) -> dict[str, Any]:
    """What every answer and chunk begins with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": served.name}


def usage(prompt: int, made: int, cached: int) -> dict[str, Any]:
    """Tokens of prompts, of answers, and of prompts that were found in the cache."""
    counted = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    return {**counted, "prompt_tokens_details": {"cached_tokens": cached}}


def finish_reason(reason: str | None) -> str | None:
    """An engine's reason in OpenAI's words."""
    return reason and FINISH.get(reason, reason)


def logprobs_of(served: Served, scored: Sequence[Scored], offset: int) -> dict[str, Any]:
    """Completions' `logprobs`; the first token's text begins at `offset`. Part of a character is told as bytes."""

    def text(token: int) -> str:
        piece = served.tokenizer.decode_bytes([token])
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    texts, offsets = [text(one.token) for one in scored], [offset]
    for one in scored:
        offsets.append(offsets[-1] + begun(served, one.token))
    top: list[Mapping[str, float]] = [{text(token): logprob for token, logprob in one.top} for one in scored]
    return {
        "tokens": texts,
        "token_logprobs": [one.logprob for one in scored],
        "top_logprobs": top,
        "text_offset": offsets[: len(texts)],
    }


def begun(served: Served, token: int) -> int:
    """How many characters begin in a token."""
    return sum(byte & 0xC0 != 0x80 for byte in served.tokenizer.decode_bytes([token]))


def chat_score(served: Served, scored: Scored) -> dict[str, Any]:
    """Chat's entry of a token in `logprobs`."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        piece = served.tokenizer.decode_bytes([token])
        return {"token": piece.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(piece)}

    return {**entry(scored.token, scored.logprob), "top_logprobs": [entry(*one) for one in scored.top]}
