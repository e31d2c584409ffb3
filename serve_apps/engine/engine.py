"""Continuous batching on a thread: each step computes a chunk of waiting prompts and one token of every other."""

import threading
from collections import deque
from dataclasses import dataclass, field

from serve_apps.engine.blocks import BlockPool
from serve_apps.engine.request import Event, FinishReason, Overloaded, Request
from serve_apps.engine.runner import PagedRunner, Piece
from serve_apps.engine.sampling import Choice, choose
from serve_apps.engine.text import TextStream
from starloom.config import Config, runtime
from starloom.model.model import CodeModel
from starloom.tokenizer import END_OF_TEXT, CodeTokenizer


class EngineConfig(Config):
    """Sizes of the batch, the cache and the queue."""

    block_size: int = runtime(16, gt=0)
    cache_tokens: int = runtime(32768, gt=0)
    batch: int = runtime(16, gt=0)
    prefill_chunk: int = runtime(256, gt=0)
    queue: int = runtime(64, gt=0)


@dataclass(eq=False)
class Running:
    """A request that holds blocks; `computed` tokens of it are in the cache."""

    request: Request
    ids: list[int]
    table: list[int]
    computed: int
    text: TextStream = field(init=False)

    def __post_init__(self) -> None:
        self.text = TextStream(self.request.sampling.stop)

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.ids) - len(self.request.prompt)


class LocalEngine:
    """The model in this process. Blocks for the longest possible answer are taken at admission: nothing is evicted."""

    def __init__(self, model: CodeModel, tokenizer: CodeTokenizer, config: EngineConfig) -> None:
        self.context, self._config, self._tokenizer = model.config.context, config, tokenizer
        blocks = -(-max(config.cache_tokens, self.context) // config.block_size)
        self.blocks = blocks
        self._pool = BlockPool(blocks, config.block_size)
        self._runner = PagedRunner(model, blocks=blocks, block_size=config.block_size)
        self._end = tokenizer.special(END_OF_TEXT)
        self._bytes = tokenizer.token_bytes + [b""] * (model.config.vocabulary - tokenizer.size)
        self._specials = set(tokenizer.special_ids.values())
        self._waiting: deque[Request] = deque()
        self._running: list[Running] = []
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return self._pool.free

    @property
    def load(self) -> tuple[int, int]:
        """Requests running and waiting."""
        return len(self._running), len(self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request; its prompt and answer fit the window, or ValueError. `Overloaded` when the queue is full."""
        if not request.prompt or len(request.prompt) + request.sampling.max_tokens > self.context:
            raise ValueError(f"prompt and max_tokens must fit {self.context} tokens, and the prompt not be empty")
        with self._changed:
            if len(self._waiting) >= self._config.queue:
                raise Overloaded(f"{len(self._waiting)} requests are waiting")
            self._waiting.append(request)
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread after the step under way; what runs ends as cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
                if self._closed:
                    break
                self._admit()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - told to every client; the next request is served
                print(f"engine: a step failed: {type(error).__name__}: {error}", flush=True)
                for one in list(self._running):
                    self._finish(one, "error")
        for one in list(self._running):
            self._finish(one, "cancelled")
        for request in self._waiting:
            request.emit(Event(None, 0.0, "", "cancelled"))

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._config.batch:
            request = self._waiting[0]
            if not request.cancelled:
                got = self._pool.acquire(request.prompt, len(request.prompt) + request.sampling.max_tokens)
                if got is None:
                    return
                self._running.append(Running(request, list(request.prompt), *got))
            else:
                request.emit(Event(None, 0.0, "", "cancelled"))
            self._waiting.popleft()

    def _step(self) -> None:
        for one in [one for one in self._running if one.request.cancelled]:
            self._finish(one, "cancelled")
        budget, batch, pieces = self._config.prefill_chunk, [], []
        for one in self._running:
            missing = len(one.ids) - one.computed
            count = 1 if missing == 1 else min(missing, budget)
            if count:
                budget -= count if missing > 1 else 0
                batch.append(one)
                pieces.append(Piece(one.ids[one.computed : one.computed + count], one.computed, one.table))
        if not pieces:
            return
        logits = self._runner.logits(pieces)
        for one, piece, row in zip(batch, pieces, logits, strict=True):
            one.computed += len(piece.ids)
            if one.computed == len(one.ids):
                self._advance(one, choose(row, one.request.sampling, one.generated))

    def _advance(self, one: Running, choice: Choice) -> None:
        if not one.generated:
            self._pool.publish(one.request.prompt, one.table)
        one.ids.append(choice.token)
        sampling = one.request.sampling
        ended = choice.token == self._end and not sampling.ignore_end
        full = one.generated >= sampling.max_tokens
        piece = b"" if choice.token in self._specials else self._bytes[choice.token]
        text = one.text.feed(piece, final=ended or full)
        finish: FinishReason | None = "stop" if ended or one.text.stopped else "length" if full else None
        if finish is None:
            one.request.emit(Event(choice.token, choice.logprob, text))
        else:
            self._finish(one, finish, choice, text)

    def _finish(self, one: Running, reason: FinishReason, choice: Choice | None = None, text: str = "") -> None:
        self._running.remove(one)
        self._pool.release(one.table)
        token, logprob = (choice.token, choice.logprob) if choice else (None, 0.0)
        one.request.emit(Event(token, logprob, text, reason))
