"""Continuous batching on a thread: each step computes a chunk of new prompts and the next tokens of all others."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve_apps.engine.blocks import BlockPool
from serve_apps.engine.grammar import Grammars, Matcher
from serve_apps.engine.native.build import compiler
from serve_apps.engine.native.runner import NativeRunner, Weights
from serve_apps.engine.pieces import Piece, Runner, Scores
from serve_apps.engine.queueing import WaitingQueue
from serve_apps.engine.request import Counters, Event, FinishReason, Load, Overloaded, Request, Sampling, Scored
from serve_apps.engine.sampling import choose, scored
from serve_apps.engine.speculation import PromptLookup
from serve_apps.engine.text import TextStream
from serve_apps.engine.torch_runner import TorchRunner
from starloom.config import Config, runtime
from starloom.errors import UserError
from starloom.model.model import CodeModel
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer

TORCH_BLOCK = 16
STUCK_SECONDS = 60.0  # a step lasts a fraction of one
ROWS_AT_ONCE = 16  # drafts fill a step up to so many rows: more cost time that memory does not hide


class EngineConfig(Config):
    """Sizes and routes. A step lasts about `step_seconds`: no cancelled request holds its blocks longer."""

    kernels: Literal["auto", "native", "torch"] = runtime("auto")
    weights: Weights = "float32"
    threads: int = runtime(0, ge=0)
    cache_tokens: int = runtime(32768, gt=0)
    batch: int = runtime(16, gt=0)
    prefill_chunk: int = runtime(256, gt=0)
    step_seconds: float = runtime(0.07, gt=0)
    queue: int = runtime(64, gt=0)
    drafts: int = runtime(10, ge=0)


@dataclass(eq=False)
class Running:
    """A request that holds blocks; `computed` tokens of it are in the cache."""

    request: Request
    ids: list[int]
    table: list[int]
    computed: int
    lookup: PromptLookup
    matcher: Matcher | None = None
    cached: int = 0  # tokens of the prompt that were found
    prompt_scores: list[Scored] = field(default_factory=list)
    text: TextStream = field(init=False)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.text = TextStream(sampling.stop, sampling.max_lines, sampling.include_stop, sampling.min_indent)
        self.lookup.extend(self.ids)

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def left(self) -> int:
        """Tokens that may be sampled still."""
        return self.request.sampling.max_tokens - self.generated


@dataclass(frozen=True)
class Planned:
    """A piece of a step, and how many of its tokens are drafts."""

    running: Running
    piece: Piece
    drafted: int


class LocalEngine:
    """The model in this process. Blocks for the longest possible answer are taken at admission: nothing is evicted."""

    def __init__(
        self, model: CodeModel, tokenizer: CodeTokenizer, config: EngineConfig, ends: frozenset[int] = frozenset()
    ) -> None:
        """`ends` are ids that end a sequence besides the end of the text, as the end of a turn does in a chat."""
        self.context, self.counters = model.config.context, Counters()
        self._config = config
        self._runner, self.blocks = make_runner(model, config)
        native = isinstance(self._runner, NativeRunner)
        self.kernels = f"native, {config.weights} weights" if native else "torch"
        self.device = "cpu"
        self.precision: str = config.weights if native else "float32"
        self._pool = BlockPool(self.blocks, self._runner.block_size)
        self._ends = ends | {tokenizer.special(END_OF_TEXT)}
        self._bytes = tokenizer.token_bytes + [b""] * (model.config.vocabulary - tokenizer.size)
        self._grammars = Grammars(tokenizer, model.config.vocabulary, self._ends)
        self._specials = set(tokenizer.special_ids.values())
        self._waiting = WaitingQueue(config.queue)
        self._running: list[Running] = []
        self._rows_per_second = config.prefill_chunk / config.step_seconds
        self._changed, self._closed = threading.Condition(), False
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return self._pool.free

    @property
    def load(self) -> Load:
        """How busy it is."""
        return Load(len(self._running), len(self._waiting), 1 - self._pool.free / self.blocks, self._config.batch)

    @property
    def failure(self) -> str:
        """What keeps it from its work: its thread has died, or a step does not end."""
        if self._closed:
            return ""
        if not self._thread.is_alive():
            return "the engine's thread has died"
        stuck = time.monotonic() - self._beat
        busy = bool(self._running or len(self._waiting))
        return f"no step has ended for {stuck:.0f} seconds" if busy and stuck > STUCK_SECONDS else ""

    def prepare(self, sampling: Sampling) -> None:
        """Compile the grammar; ValueError when it is none."""
        if sampling.grammar is not None:
            self._grammars.matcher(sampling.grammar)

    def submit(self, request: Request) -> None:
        """Queue a request; its prompt and answer fit the window, or ValueError. `Overloaded` when the queue is full."""
        if not request.prompt:
            raise ValueError("prompt: is empty; send at least one token")
        room = self.context - len(request.prompt)
        if request.sampling.max_tokens > room:
            raise ValueError(
                f"prompt: its {len(request.prompt)} tokens and max_tokens = {request.sampling.max_tokens} exceed the "
                f"model's window of {self.context} tokens; shorten the prompt or ask for fewer"
            )
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise Overloaded("the engine is stopping; ask again, another one takes over")
            if not self._running and not len(self._waiting):
                self._beat = time.monotonic()  # it has slept until now
            self._waiting.put(request)
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread after the step under way; what runs ends as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        try:
            self._work()
        finally:  # closed, or by a fault of its own, which Python prints: whoever waits is told either way
            reason: FinishReason = "cancelled" if self._closed else "error"
            for one in list(self._running):
                self._finish(one, reason)
            for request in self._waiting.everything():
                request.emit(Event(None, "", reason))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
                self._beat = time.monotonic()
                if self._closed:
                    return
                self._drop()
                self._admit()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - told to every client; the next request is served
                print(f"engine: a step failed: {type(error).__name__}: {error}", flush=True)
                for one in list(self._running):
                    self._finish(one, "error")

    def _drop(self) -> None:
        for request in self._waiting.given_up():
            self._waiting.take(request)
            self._count(request)
            request.emit(Event(None, "", "cancelled" if request.cancelled else "deadline"))
        for one in [one for one in self._running if one.request.cancelled or one.request.late]:
            self._count(one.request)
            self._finish(one, "cancelled" if one.request.cancelled else "deadline")

    def _count(self, request: Request) -> None:
        self.counters.cancelled_requests += request.cancelled
        self.counters.late_requests += not request.cancelled

    def _admit(self) -> None:
        while len(self._running) < self._config.batch:
            request = self._waiting.next(one.request.user for one in self._running)
            if request is None:
                return
            known = [] if request.sampling.prompt_logprobs else request.prompt
            got = self._pool.acquire(known, len(request.prompt) + request.sampling.max_tokens)
            if got is None:
                return
            self._waiting.take(request)
            lookup, grammar = PromptLookup(self._config.drafts), request.sampling.grammar
            matcher = None if grammar is None else self._grammars.matcher(grammar)
            self._running.append(Running(request, list(request.prompt), *got, lookup, matcher, got[1]))
            self.counters.prompt += len(request.prompt)
            self.counters.prefix_queries += len(request.prompt)
            self.counters.prefix_hits += got[1]

    def _step(self) -> None:
        plan = self._plan()
        if not plan:
            return
        started = time.perf_counter()
        scores = self._runner.forward([one.piece for one in plan])
        self._learn_speed(sum(len(one.piece.ids) for one in plan), time.perf_counter() - started)
        self.counters.steps += 1
        row = 0
        for one in plan:
            try:
                self._take(one, scores, row)
            except FloatingPointError as error:
                print(f"engine: {error}", flush=True)
                self._finish(one.running, "error")
            row += one.piece.wanted

    def _plan(self) -> list[Planned]:
        """New prompts get what rows a step has time for, the oldest first; of all others the next token and drafts."""
        budget = max(
            ROWS_AT_ONCE, min(self._config.prefill_chunk, int(self._rows_per_second * self._config.step_seconds))
        )
        decoding = sum(len(one.ids) - one.computed == 1 for one in self._running)
        room = ROWS_AT_ONCE // max(1, decoding) - 1
        plan = []
        for one in self._running:
            missing = len(one.ids) - one.computed
            if missing == 1 and one.generated:
                draft = one.lookup.draft(min(room, one.left - 1))
                ids = [one.ids[-1], *draft]
                plan.append(Planned(one, Piece(ids, one.computed, one.table, len(ids)), len(draft)))
            elif budget:
                count = min(missing, budget)
                budget -= count
                ids = one.ids[one.computed : one.computed + count]
                wanted = count if one.request.sampling.prompt_logprobs else int(count == missing)
                plan.append(Planned(one, Piece(ids, one.computed, one.table, wanted), 0))
        return plan

    def _learn_speed(self, rows: int, seconds: float) -> None:
        if rows >= ROWS_AT_ONCE:  # smaller steps are bound by memory and tell nothing of a row's price
            self._rows_per_second += 0.3 * (rows / max(seconds, 1e-6) - self._rows_per_second)

    def _take(self, planned: Planned, scores: Scores, row: int) -> None:
        """What a step has computed for one request: tokens are taken as long as the drafts before them held."""
        one, piece = planned.running, planned.piece
        end = one.computed + len(piece.ids) - planned.drafted
        if one.request.sampling.prompt_logprobs and not one.generated:
            self._score_prompt(one, piece, scores, row)
            row += piece.wanted - 1
        one.computed = end
        if end < len(one.ids):
            return
        if not one.generated:
            self._pool.publish(one.request.prompt, one.table)
            if one.request.sampling.prompt_logprobs:
                one.request.emit(Event(None, "", prompt=tuple(one.prompt_scores)))
        accepted = 0
        for number in range(planned.drafted + 1):
            allowed = None if one.matcher is None else one.matcher.allowed()
            given = len(one.request.prompt)
            choice = choose(scores, row + number, one.request.sampling, given, one.ids, allowed, self._ends)
            held = number < planned.drafted and choice.token == piece.ids[number + 1]
            if not self._advance(one, choice) or not held:
                break
            accepted += 1
            one.computed += 1
        if planned.drafted:
            one.lookup.learn(planned.drafted, accepted)
            self.counters.drafted += planned.drafted
            self.counters.accepted += accepted

    def _score_prompt(self, one: Running, piece: Piece, scores: Scores, row: int) -> None:
        following: Sequence[int] = one.ids[piece.start + 1 : piece.start + len(piece.ids) + 1]
        top = one.request.sampling.top_logprobs
        one.prompt_scores += [scored(scores, row + n, token, top) for n, token in enumerate(following)]

    def _advance(self, one: Running, choice: Scored) -> bool:
        """Add a token; whether the request goes on."""
        one.ids.append(choice.token)
        one.lookup.extend([choice.token])
        self.counters.generated += 1
        sampling = one.request.sampling
        own = choice.token in self._ends and (not sampling.ignore_end or one.matcher is not None)
        ended, full = own or choice.token in sampling.stop_ids, not one.left
        if one.matcher is not None and not ended:
            ended = one.matcher.take(choice.token)
        piece = (
            b"" if choice.token in self._specials or choice.token in sampling.stop_ids else self._bytes[choice.token]
        )
        text = one.text.feed(piece, final=ended or full, may_stop=one.generated > sampling.min_tokens)
        finish: FinishReason | None = "stop" if one.text.stopped else "end" if ended else "length" if full else None
        if finish is None:
            one.request.emit(Event(choice, text))
        else:
            self._finish(one, finish, choice, text)
        return finish is None

    def _finish(self, one: Running, reason: FinishReason, choice: Scored | None = None, text: str = "") -> None:
        self._running.remove(one)
        if reason == "error":
            self.counters.failed_requests += 1
        else:  # the next keystroke sends this prompt and answer again
            self._pool.publish(one.ids[: one.computed], one.table)
        self._pool.release(one.table)
        one.request.emit(Event(choice, text, reason, cached=one.cached, word=one.text.word))


def make_runner(model: CodeModel, config: EngineConfig) -> tuple[Runner, int]:
    """The runner that the config asks for and its number of blocks; "auto" is native where a compiler is.

    Raises:
        UserError: the weights or kernels that are asked for cannot be had here.
    """
    native = config.kernels == "native" or (config.kernels == "auto" and compiler() is not None)
    tokens = max(config.cache_tokens, model.config.context)
    if native:
        threads = config.threads or len(os.sched_getaffinity(0))
        blocks = -(-tokens // NativeRunner.block_size)
        return NativeRunner(model, blocks=blocks, threads=threads, weights=config.weights), blocks
    if config.weights != "float32":
        raise UserError(f"weights = {config.weights!r} needs kernels = 'native' and a C++ compiler; install g++")
    blocks = -(-tokens // TORCH_BLOCK)
    return TorchRunner(model, blocks=blocks, block_size=TORCH_BLOCK), blocks
