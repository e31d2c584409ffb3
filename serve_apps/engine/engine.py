"""Continuous batching on a thread: each step computes a chunk of new prompts and the next tokens of all others."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from serve_apps.engine.blocks import BlockPool
from serve_apps.engine.grammar import Grammars
from serve_apps.engine.native.build import compiler
from serve_apps.engine.native.runner import NativeRunner, Weights, best_weights
from serve_apps.engine.pieces import Piece, Runner, Scores
from serve_apps.engine.request import Counters, Event, FinishReason, Load, Request, Sampling, Scored, Stopping
from serve_apps.engine.sampling import choose, scored
from serve_apps.engine.schedule import ROWS_AT_ONCE, Planned, Running, Schedule
from serve_apps.engine.slices import slice_of
from serve_apps.engine.speculation import PromptLookup
from serve_apps.engine.tensor_parallel import TensorParallelRunner
from serve_apps.engine.torch_runner import Precision, Sizes, TorchRunner
from starloom.config import Config, runtime
from starloom.errors import UserError
from starloom.model.adapter import LowRank
from starloom.model.model import CodeModel
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer

TORCH_BLOCK = 16
STUCK_SECONDS = 60.0  # a step lasts a fraction of one


class EngineConfig(Config):
    """Sizes and routes. A step lasts about `step_seconds`: no cancelled request holds its blocks longer.

    `threads` is of the native kernels, 0 as many as are quickest; torch takes the cores at hand.
    `tensor_parallel` cuts the model over so many cards of a replica, or with kernels "torch" over processes on the CPU.
    `weights` "auto" is bfloat16 where the processor or the graphics card multiplies it, or where a model's weights lose
    nothing by it, and else float32.
    """

    device: Literal["cpu", "cuda"] = runtime("cpu")

    kernels: Literal["auto", "native", "torch"] = runtime("auto")
    weights: Weights | Literal["auto"] = "float32"
    threads: int = runtime(0, ge=0)
    tensor_parallel: int = runtime(1, gt=0)
    cache_tokens: int = runtime(32768, gt=0)
    batch: int = runtime(32, gt=0)
    prefill_chunk: int = runtime(256, gt=0)
    step_seconds: float = runtime(0.07, gt=0)
    queue: int = runtime(64, gt=0)
    drafts: int = runtime(10, ge=0)


class LocalEngine:
    """The model in this process, its steps on a thread."""

    def __init__(
        self,
        model: CodeModel,
        tokenizer: CodeTokenizer,
        config: EngineConfig,
        ends: frozenset[int] = frozenset(),
        adapters: Sequence[LowRank] = (),
    ) -> None:
        """`ends` are ids that end a sequence besides the end of the text, as the end of a turn does in a chat.

        Requests name `adapters` by their number; `Adapted` is such a one by itself.
        """
        self.context, self.counters = model.config.context, Counters()
        self.counters_of = [Counters() for _ in adapters]
        self._config = config
        self._runner, self.blocks = make_runner(model, config, adapters)
        self.device: str = config.device
        self.precision = self._runner.precision
        self.kernels = f"native, {self.precision} weights" if isinstance(self._runner, NativeRunner) else "torch"
        self._pool = BlockPool(self.blocks, self._runner.block_size)
        self._ends = ends | {tokenizer.special(END_OF_TEXT)}
        self._bytes = tokenizer.token_bytes + [b""] * (model.config.vocabulary - tokenizer.size)
        self._grammars = Grammars(tokenizer, model.config.vocabulary, self._ends)
        self._specials = set(tokenizer.special_ids.values())
        self._schedule = Schedule(self._pool, config.batch, config.queue, self._begun, self._counters)
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
        use = 1 - self._pool.free / self.blocks
        return Load(len(self._schedule.running), self._schedule.queued, use, self._config.batch)

    def load_of(self, adapter: int) -> Load:
        """The same of the requests of one adapter, or of the model itself (-1)."""
        running = sum(one.request.adapter == adapter for one in list(self._schedule.running))
        return replace(self.load, running=running, waiting=self._schedule.queued_of(adapter))

    @property
    def failure(self) -> str:
        """What keeps it from its work: its thread has died, or a step does not end."""
        if self._closed:
            return ""
        if not self._thread.is_alive():
            return "the engine's thread has died"
        if self._runner.failure:
            return self._runner.failure
        stuck = time.monotonic() - self._beat
        return f"no step has ended for {stuck:.0f} seconds" if self._schedule.busy and stuck > STUCK_SECONDS else ""

    def prepare(self, sampling: Sampling) -> None:
        """Compile the grammar; ValueError when it is none."""
        if sampling.grammar is not None:
            self._grammars.matcher(sampling.grammar)

    def submit(self, request: Request) -> None:
        """Queue a request; its prompt and answer fit the window, or ValueError. `Overloaded` when the queue is full.

        Raises:
            Stopping: the engine was closed, or will not get on.
        """
        if not request.prompt:
            raise ValueError("prompt: is empty; send at least one token")
        room = self.context - len(request.prompt)
        if request.sampling.max_tokens > room:
            raise ValueError(
                f"prompt: its {len(request.prompt)} tokens and max_tokens = {request.sampling.max_tokens} exceed the "
                f"model's window of {self.context} tokens; shorten the prompt or ask for fewer"
            )
        with self._changed:
            if self._closed or self.failure:
                raise Stopping
            if not self._schedule.busy:
                self._beat = time.monotonic()  # it has slept until now
            self._schedule.waiting.put(request)
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread after the step under way; what runs ends as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._runner.close()

    def _loop(self) -> None:
        try:
            self._work()
        finally:  # closed, or by a fault of its own, which Python prints: whoever waits is told either way
            reason: FinishReason = "cancelled" if self._closed else "error"
            for one in self._schedule.everything():
                self._finish(one, reason)
            for request in self._schedule.waiting.everything():
                request.emit(Event(None, "", reason))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._schedule.busy)
                self._beat = time.monotonic()
                if self._closed:
                    return
                self._drop()
                self._schedule.admit()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - told to every client; the next request is served
                print(f"engine: a step failed: {type(error).__name__}: {error}", flush=True)
                for one in self._schedule.everything():
                    self._finish(one, "error")

    def _drop(self) -> None:
        for request in self._schedule.waiting.given_up():
            self._schedule.waiting.take(request)
            self._count(request)
            request.emit(Event(None, "", "cancelled" if request.cancelled else "deadline"))
        for one in self._schedule.everything():
            if one.request.cancelled or one.request.late:
                self._count(one.request)
                self._finish(one, "cancelled" if one.request.cancelled else "deadline")

    def _counters(self, request: Request) -> Counters:
        return self.counters if request.adapter < 0 else self.counters_of[request.adapter]

    def _count(self, request: Request) -> None:
        self._counters(request).cancelled_requests += request.cancelled
        self._counters(request).late_requests += not request.cancelled

    def _begun(self, request: Request, table: list[int], found: int) -> Running:
        grammar = request.sampling.grammar
        matcher = None if grammar is None else self._grammars.matcher(grammar)
        lookup = PromptLookup(self._config.drafts)
        return Running(request, list(request.prompt), table, found, lookup, matcher, found)

    def _step(self) -> None:
        plan = self._schedule.plan(self._rows(), self._config.drafts)
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

    def _rows(self) -> int:
        """How many rows of new prompts a step has time for."""
        return max(
            ROWS_AT_ONCE, min(self._config.prefill_chunk, int(self._rows_per_second * self._config.step_seconds))
        )

    def _learn_speed(self, rows: int, seconds: float) -> None:
        if rows >= ROWS_AT_ONCE:  # smaller steps are bound by memory and tell nothing of a row's price
            self._rows_per_second += 0.3 * (rows / max(seconds, 1e-6) - self._rows_per_second)

    def _take(self, planned: Planned, scores: Scores, row: int) -> None:
        """What a step has computed for one request: tokens are taken as long as the drafts before them held."""
        one, piece = planned.running, planned.piece
        end = one.computed + len(piece.ids) - planned.drafted
        if one.scores_prompt:
            self._score_prompt(one, piece, scores, row)
            row += piece.wanted - 1
        one.computed = end
        if end < len(one.ids):
            return
        if not one.generated:
            self._pool.publish(one.request.prompt, one.table, one.request.adapter)
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
            self._counters(one.request).drafted += planned.drafted
            self._counters(one.request).accepted += accepted

    def _score_prompt(self, one: Running, piece: Piece, scores: Scores, row: int) -> None:
        following: Sequence[int] = one.ids[piece.start + 1 : piece.start + len(piece.ids) + 1]
        top = one.request.sampling.top_logprobs
        one.prompt_scores += [scored(scores, row + n, token, top) for n, token in enumerate(following)]

    def _advance(self, one: Running, choice: Scored) -> bool:
        """Add a token; whether the request goes on."""
        one.ids.append(choice.token)
        one.lookup.extend([choice.token])
        self._counters(one.request).generated += 1
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
        self._counters(one.request).failed_requests += reason == "error"
        self._schedule.leave(one, keep=reason != "error")  # the next keystroke sends this prompt and answer again
        one.request.emit(Event(choice, text, reason, cached=one.cached, word=one.text.word))


class Adapted:
    """One of the models that share an engine: its base (-1), or the adapter of that number."""

    def __init__(self, engine: LocalEngine, adapter: int) -> None:
        self.engine, self._adapter = engine, adapter
        self.context, self.kernels, self.device = engine.context, engine.kernels, engine.device
        self.precision = engine.precision
        self.counters = engine.counters if adapter < 0 else engine.counters_of[adapter]

    @property
    def load(self) -> Load:
        """Its own requests; the cache and the places are those of all."""
        return self.engine.load_of(self._adapter)

    @property
    def failure(self) -> str:
        """What keeps the engine from its work."""
        return self.engine.failure

    def prepare(self, sampling: Sampling) -> None:
        """Compile the grammar; ValueError when it is none."""
        self.engine.prepare(sampling)

    def submit(self, request: Request) -> None:
        """Queue a request of this model; ValueError and `Overloaded` as the engine raises them."""
        request.adapter = self._adapter
        self.engine.submit(request)

    def close(self) -> None:
        """Stop the engine, for all who share it."""
        self.engine.close()


def make_runner(model: CodeModel, config: EngineConfig, adapters: Sequence[LowRank] = ()) -> tuple[Runner, int]:
    """The runner that the config asks for and its number of blocks; on the CPU "auto" is native where a compiler is.

    Raises:
        UserError: the weights or kernels that are asked for cannot be had here.
    """
    if config.device == "cuda":
        return _on_card(model, config, adapters)
    whole = config.tensor_parallel == 1
    if config.kernels == "native" and not whole:
        raise UserError("tensor_parallel: native kernels do not cut a model; use kernels = 'torch'")
    native = config.kernels == "native" or (config.kernels == "auto" and whole and compiler() is not None)
    tokens = max(config.cache_tokens, model.config.context)
    if native:
        blocks = -(-tokens // NativeRunner.block_size)
        weights = config.weights if config.weights != "auto" else best_weights(model)
        return NativeRunner(model, blocks=blocks, threads=config.threads, weights=weights, adapters=adapters), blocks
    if config.weights not in ("float32", "auto"):
        raise UserError(f"weights = {config.weights!r} needs kernels = 'native' and a C++ compiler; install g++")
    sizes = Sizes(-(-tokens // TORCH_BLOCK), TORCH_BLOCK)
    return _in_torch(model, sizes, config, adapters), sizes.blocks


def _on_card(model: CodeModel, config: EngineConfig, adapters: Sequence[LowRank]) -> tuple[Runner, int]:
    if not torch.cuda.is_available():
        raise UserError("device = 'cuda': torch finds no graphics card here; use device = 'cpu'")
    if torch.cuda.device_count() < config.tensor_parallel:
        raise UserError(f"tensor_parallel = {config.tensor_parallel}: there are {torch.cuda.device_count()} cards here")
    if config.kernels == "native" or config.weights == "int8":
        raise UserError("device = 'cuda': takes kernels = 'torch', and weights = 'float32', 'bfloat16' or 'auto'")
    blocks = -(-max(config.cache_tokens, model.config.context) // TORCH_BLOCK)
    precision: Precision = "float32" if config.weights == "float32" else "bfloat16"
    sizes = Sizes(blocks, TORCH_BLOCK, "cuda", precision)
    return _in_torch(model, sizes, config, adapters), blocks


def _in_torch(model: CodeModel, sizes: Sizes, config: EngineConfig, adapters: Sequence[LowRank]) -> Runner:
    if config.tensor_parallel > 1:
        return TensorParallelRunner(model, adapters, sizes, config.tensor_parallel)
    return TorchRunner(slice_of(model, adapters, sizes.dtype), sizes)
