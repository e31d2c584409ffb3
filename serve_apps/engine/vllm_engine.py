"""vLLM behind the same API, for clusters with GPUs: ``engine: {kind: vllm}`` with the extra ``starloom[vllm]``.

vLLM gives tokens; text, stop strings, deadlines and refusals are made here, as `LocalEngine` makes them.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from serve_apps.engine.request import (
    Counters,
    Event,
    FinishReason,
    Load,
    Overloaded,
    Request,
    Sampling,
    Scored,
    Stopping,
)
from serve_apps.engine.text import TextStream
from starloom.config import Config, runtime
from starloom.errors import UserError
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer

LOOK_SECONDS = 0.05  # so often a request is asked whether its client is still there


class VllmConfig(Config):
    """What vLLM is started with; `batch` and `queue` bound what it is given at once.

    A replica asks the cluster for `gpus`, as many as tensor_parallel where none are said; 0 is for vLLM's CPU build.
    """

    kind: Literal["vllm"]
    dtype: str = "auto"
    tensor_parallel: int = runtime(1, gt=0)
    gpus: int | None = runtime(None, ge=0)
    memory_share: float = runtime(0.9, gt=0, le=1)
    batch: int = runtime(64, gt=0)
    queue: int = runtime(128, gt=0)

    @property
    def devices(self) -> int:
        """GPUs of a replica."""
        return self.tensor_parallel if self.gpus is None else self.gpus


@dataclass(frozen=True)
class Told:
    """A piece of an answer: its tokens, and with the first what of the prompt was scored and found in the cache."""

    scored: Sequence[Scored]
    prompt: tuple[Scored, ...] = ()
    cached: int = 0


class Tokens(Protocol):
    """vLLM as far as it is used: ids with their log probabilities, in pieces."""

    @property
    def cache_use(self) -> float:
        """The share of its cache's blocks that requests hold."""

    @property
    def device(self) -> str:
        """Where it computes: ``cpu``, ``cuda``."""

    @property
    def precision(self) -> str:
        """What the weights are held in: ``bfloat16``, ``float32``."""

    @property
    def failure(self) -> str:
        """What keeps vLLM from its work; empty when nothing does."""

    def generate(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncIterator[Told]:
        """The answer's tokens as they come, until it ends; to close the iterator is to abort the request."""

    def close(self) -> None:
        """Stop."""


class VllmEngine:
    """`Tokens` as an `Engine`, on an event loop of its own thread."""

    def __init__(
        self,
        tokens: Tokens,
        tokenizer: CodeTokenizer,
        config: VllmConfig,
        context: int,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        """`ends` are ids that end a sequence besides the end of the text, as the end of a turn does in a chat."""
        self.context, self.kernels, self.counters = context, "vllm", Counters()
        self.device, self.precision = tokens.device, tokens.precision
        self._tokens, self._config, self._names = tokens, config, itertools.count()
        self._bytes, self._specials = tokenizer.token_bytes, set(tokenizer.special_ids.values())
        self._ends = ends | {tokenizer.special(END_OF_TEXT)}
        self._under_way, self._lock, self._closed = set[asyncio.Task[None]](), threading.Lock(), False
        self._given = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """How busy it is."""
        running = min(self._given, self._config.batch)
        return Load(running, self._given - running, self._tokens.cache_use, self._config.batch)

    @property
    def failure(self) -> str:
        """What keeps it from its work: a thread that has died, or vLLM itself."""
        if self._closed:
            return ""
        return self._tokens.failure if self._thread.is_alive() else "the thread that asks vLLM has died"

    def prepare(self, sampling: Sampling) -> None:
        """Nothing: vLLM compiles grammars itself."""

    def submit(self, request: Request) -> None:
        """Hand a request over; `Overloaded` when too many are under way, ValueError when it cannot fit.

        Raises:
            Stopping: it was closed.
        """
        if not request.prompt or len(request.prompt) + request.sampling.max_tokens > self.context:
            raise ValueError(f"prompt: it and max_tokens must fit the model's window of {self.context} tokens")
        sampling = request.sampling
        if sampling.typical_p < 1 or sampling.penalty_window:
            raise ValueError("typical_p: neither it nor a window of penalties are had from vLLM; leave them out")
        with self._lock:
            if self._closed:
                raise Stopping
            if self._given >= self._config.batch + self._config.queue:
                raise Overloaded(f"{self._given} requests are under way; try again in a moment")
            self._given += 1
        self._loop.call_soon_threadsafe(self._start, request)

    def close(self) -> None:
        """Stop; what runs ends as cancelled."""
        with self._lock:
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._tokens.close()

    async def _cancel_all(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _start(self, request: Request) -> None:
        task = self._loop.create_task(self._answer(request))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, request: Request) -> None:
        reason: FinishReason = "cancelled"
        try:
            reason = await self._answered(request)
        except Exception as error:  # noqa: BLE001 - told to the client; others are served
            print(f"vllm: a request failed: {type(error).__name__}: {error}", flush=True)
            self.counters.failed_requests += 1
            reason = "error"
        finally:
            with self._lock:
                self._given -= 1
            if reason in ("cancelled", "deadline", "error"):
                request.emit(Event(None, "", reason))

    async def _answered(self, request: Request) -> FinishReason:
        self.counters.prompt += len(request.prompt)
        sampling = request.sampling
        text, made = TextStream(sampling.stop, sampling.max_lines, sampling.include_stop, sampling.min_indent), 0
        cached = 0
        pieces = self._tokens.generate(
            f"{request.trace or 'request'}-{next(self._names)}", request.prompt, request.sampling
        )
        coming = asyncio.ensure_future(anext(pieces, None))
        try:
            while True:
                await asyncio.wait({coming}, timeout=LOOK_SECONDS)
                if request.cancelled or request.late:
                    return self._given_up(request)
                if not coming.done():
                    continue
                piece = coming.result()
                if piece is None:  # by an end of the model's own settings that nobody told us of
                    request.emit(Event(None, text.feed(b"", final=True), "end", cached=cached))
                    return "end"
                if not made:
                    cached = piece.cached
                    self.counters.prefix_queries += len(request.prompt)
                    self.counters.prefix_hits += cached
                if piece.prompt:
                    request.emit(Event(None, "", prompt=piece.prompt))
                for scored in piece.scored:
                    made += 1
                    reason = self._told(request, text, scored, made, cached)
                    if reason:
                        return reason
                coming = asyncio.ensure_future(anext(pieces, None))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await pieces.aclose()  # type: ignore[attr-defined]

    def _given_up(self, request: Request) -> FinishReason:
        self.counters.cancelled_requests += request.cancelled
        self.counters.late_requests += not request.cancelled
        return "cancelled" if request.cancelled else "deadline"

    def _told(self, request: Request, text: TextStream, scored: Scored, made: int, cached: int) -> FinishReason | None:
        self.counters.generated += 1
        sampling = request.sampling
        ended = (scored.token in self._ends and not sampling.ignore_end) or scored.token in sampling.stop_ids
        full = made == sampling.max_tokens
        known = scored.token not in self._specials | sampling.stop_ids and scored.token < len(self._bytes)
        piece = self._bytes[scored.token] if known else b""
        free = text.feed(piece, final=ended or full, may_stop=made > sampling.min_tokens)
        reason: FinishReason | None = "stop" if text.stopped else "end" if ended else "length" if full else None
        request.emit(Event(scored, free, reason, cached=cached if reason else 0, word=text.word))
        return reason


def sampling_arguments(sampling: Sampling) -> dict[str, Any]:
    """Our sampling in the words of vLLM's `SamplingParams`; stop strings stay here, where text is made."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "ignore_eos": sampling.ignore_end,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "min_p": sampling.min_p,
        "min_tokens": sampling.min_tokens,
        "stop_token_ids": sorted(sampling.stop_ids),
        "logit_bias": dict(sampling.bias) or None,
        "logprobs": sampling.top_logprobs,
        "prompt_logprobs": sampling.top_logprobs if sampling.prompt_logprobs else None,
        "detokenize": False,
    }


def engine_arguments(folder: Path, config: VllmConfig, context: int) -> dict[str, Any]:
    """What vLLM's `AsyncEngineArgs` takes."""
    return {
        "model": str(folder),
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel,
        "gpu_memory_utilization": config.memory_share,
        "max_num_seqs": config.batch,
        "max_model_len": context,
        "enable_prefix_caching": True,
    }


def scored_tokens(ids: Sequence[int], logprobs: Sequence[Mapping[int, Any]], top: int) -> list[Scored]:
    """VLLM's ids and their tables of `Logprob`, the token's own among them, as ours: likeliest first."""
    found = []
    for token, table in zip(ids, logprobs, strict=True):
        likeliest = sorted(((other, float(entry.logprob)) for other, entry in table.items()), key=lambda one: -one[1])
        found.append(Scored(token, float(table[token].logprob), tuple(likeliest[:top])))
    return found


@dataclass
class VllmTokens:
    """vLLM's asynchronous engine as `Tokens`."""

    engine: Any
    library: Any
    usage: list[float] = field(default_factory=lambda: [0.0])  # of the cache, as vLLM last told it

    @property
    def cache_use(self) -> float:
        """The share of its cache's blocks that requests hold."""
        return self.usage[0]

    @property
    def failure(self) -> str:
        """Whether its processes have died."""
        return "vLLM's engine has died" if self.engine.errored else ""

    @property
    def device(self) -> str:
        """As vLLM's platform names it."""
        return str(self.library.platforms.current_platform.device_type)

    @property
    def precision(self) -> str:
        """The model's own, as vLLM has resolved it."""
        return str(self.engine.vllm_config.model_config.dtype).removeprefix("torch.")

    async def generate(self, name: str, prompt: list[int], sampling: Sampling) -> AsyncIterator[Told]:
        """The answer's tokens as they come.

        Raises:
            RuntimeError: vLLM gave the request up.
        """
        kind = self.library.sampling_params.RequestOutputKind.DELTA
        told = sampling_arguments(sampling)
        if sampling.grammar is not None:
            words = {sampling.grammar.kind: sampling.grammar.text}
            told["structured_outputs"] = self.library.sampling_params.StructuredOutputsParams(**words)
        parameters = self.library.SamplingParams(**told, output_kind=kind)
        try:
            async for output in self.engine.generate({"prompt_token_ids": prompt}, parameters, name):
                answer = output.outputs[0]
                if answer.finish_reason not in (None, "stop", "length"):
                    raise RuntimeError(f"vLLM ended a request: {answer.finish_reason}")
                if answer.token_ids:
                    known = [] if output.prompt_logprobs is None else output.prompt_logprobs[1:]
                    yield Told(
                        scored_tokens(answer.token_ids, answer.logprobs, sampling.top_logprobs),
                        tuple(scored_tokens(prompt[1:], known, sampling.top_logprobs) if known else ()),
                        output.num_cached_tokens or 0,
                    )
        finally:
            await self.engine.abort(name)

    def close(self) -> None:
        """Stop vLLM's processes."""
        self.engine.shutdown()


def start_vllm(
    folder: Path, tokenizer: CodeTokenizer, config: VllmConfig, context: int, ends: frozenset[int]
) -> VllmEngine:
    """VLLM over a model folder; `ends` are the ids that end its answers besides the end of the text.

    Raises:
        UserError: vLLM is not installed.
    """
    try:
        import vllm
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError:
        raise UserError("engine.kind = 'vllm': vLLM is not installed; pip install 'starloom[vllm]'") from None
    arguments, usage = vllm.AsyncEngineArgs(**engine_arguments(folder, config, context)), [0.0]
    engine = AsyncLLM.from_engine_args(arguments, stat_loggers=[_usage_logger(usage)])
    return VllmEngine(VllmTokens(engine, vllm, usage), tokenizer, config, context, ends)


def _usage_logger(usage: list[float]) -> Any:
    """VLLM's interface for statistics, of which the cache's use is kept in `usage`."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class CacheUse(StatLoggerBase):  # type: ignore[misc]
        """Keeps the last share that vLLM told."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

        def record(self, scheduler_stats: Any, *_more: Any, **_named: Any) -> None:
            """Called after each step."""
            if scheduler_stats is not None:
                usage[0] = float(scheduler_stats.kv_cache_usage)

        def log_engine_initialized(self) -> None:
            """Nothing is told."""

    return CacheUse
