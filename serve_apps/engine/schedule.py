"""Which requests run, and what of each a step computes; blocks of the cache are taken as tokens come.

When no block is left, the request that came last is set aside: its blocks go to the older ones, and when there is room
again its prompt and what it has said are computed anew, as vLLM does. Its answer is the same, since a token depends on
nothing but the tokens before it and on its own seed and place.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from serve_apps.engine.blocks import BlockPool
from serve_apps.engine.grammar import Matcher
from serve_apps.engine.pieces import Piece
from serve_apps.engine.queueing import WaitingQueue
from serve_apps.engine.request import Counters, Request, Scored
from serve_apps.engine.speculation import PromptLookup
from serve_apps.engine.text import TextStream

ROWS_AT_ONCE = 16  # drafts fill a step up to so many rows: more cost time that memory does not hide


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

    def piece(self, ids: list[int], wanted: int) -> Piece:
        """The next tokens to compute, as a runner takes them."""
        return Piece(ids, self.computed, self.table, wanted, self.request.adapter)

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def left(self) -> int:
        """Tokens that may be sampled still."""
        return self.request.sampling.max_tokens - self.generated

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own tokens are to be scored, still."""
        return self.request.sampling.prompt_logprobs and not self.generated


@dataclass(frozen=True)
class Planned:
    """A piece of a step, and how many of its tokens are drafts."""

    running: Running
    piece: Piece
    drafted: int


class Schedule:
    """The requests of an engine: those that wait, run, or were set aside. One thread at a time may use it."""

    def __init__(
        self,
        pool: BlockPool,
        batch: int,
        queue: int,
        begun: Callable[[Request, list[int], int], Running],
        counters: Callable[[Request], Counters],
    ) -> None:
        """`begun` makes what runs of a request, a table of blocks and how many tokens of the prompt are in them.

        `counters` are those that a request counts for.
        """
        self.pool, self.waiting, self.running = pool, WaitingQueue(queue), list[Running]()
        self._aside, self._batch, self._begun, self._counters = deque[Running](), batch, begun, counters

    @property
    def busy(self) -> bool:
        """Whether there is work."""
        return bool(self.running or self._aside or len(self.waiting))

    @property
    def queued(self) -> int:
        """Requests that wait or were set aside."""
        return len(self.waiting) + len(self._aside)

    def queued_of(self, adapter: int) -> int:
        """The same of one adapter, or of the model itself (-1)."""
        return self.waiting.of(adapter) + sum(one.request.adapter == adapter for one in list(self._aside))

    def everything(self) -> Iterator[Running]:
        """All that have begun, running or set aside."""
        yield from list(self.running)
        yield from list(self._aside)

    def admit(self) -> None:
        """Let those set aside go on, the first of them first, and then begin with whose turn it is."""
        while len(self.running) < self._batch:
            if self._aside:
                if not self._resumed():
                    return
                continue
            request = self.waiting.next(one.request.user for one in self.running)
            if request is None:
                return
            known = [] if request.sampling.prompt_logprobs else request.prompt
            got = self.pool.acquire(known, len(request.prompt) + 1, self._spare, request.adapter)
            if got is None:
                return
            self.waiting.take(request)
            request.began = time.perf_counter()
            self.running.append(self._begun(request, *got))
            counters = self._counters(request)
            counters.prompt += len(request.prompt)
            counters.prefix_queries += len(request.prompt)
            counters.prefix_hits += got[1]

    def plan(self, budget: int, most_drafts: int) -> list[Planned]:
        """New prompts get up to `budget` rows, the oldest first; of all others the next token and drafts."""
        decoding = sum(len(one.ids) - one.computed == 1 for one in self.running)
        room = min(most_drafts, ROWS_AT_ONCE // max(1, decoding) - 1)
        plan: list[Planned] = []
        for one in list(self.running):
            if one not in self.running:
                break  # set aside for an older one, and so are those behind it
            missing = len(one.ids) - one.computed
            if missing == 1 and one.generated:
                draft = one.lookup.draft(min(room, one.left - 1))
                if not self._roomy(one, one.computed + 1 + len(draft)):
                    draft = []
                if not self._made_room(one, one.computed + 1 + len(draft)):
                    continue
                ids = [one.ids[-1], *draft]
                plan.append(Planned(one, one.piece(ids, len(ids)), len(draft)))
            elif budget:
                count = min(missing, budget)
                if not self._made_room(one, one.computed + count):
                    continue
                budget -= count
                ids = one.ids[one.computed : one.computed + count]
                wanted = count if one.scores_prompt else int(count == missing)
                plan.append(Planned(one, one.piece(ids, wanted), 0))
        return plan

    def leave(self, one: Running, *, keep: bool) -> None:
        """A request has ended; `keep` lets later prompts find what of it is in the cache."""
        if one in self._aside:
            self._aside.remove(one)
            return
        self.running.remove(one)
        if keep:
            self.pool.publish(one.ids[: one.computed], one.table, one.request.adapter)
        self.pool.release(one.table)

    def _resumed(self) -> bool:
        """Whether the first of those set aside could go on."""
        one = self._aside[0]
        known = [] if one.scores_prompt else one.ids
        got = self.pool.acquire(known, len(one.ids), self._spare, one.request.adapter)
        if got is None:
            return False
        one.table, one.computed = got
        self.running.append(self._aside.popleft())
        return True

    @property
    def _spare(self) -> int:
        """A block for each that runs: without them who comes now would be set aside at once."""
        return len(self.running)

    def _roomy(self, one: Running, tokens: int) -> bool:
        """Whether drafts fit without taking a block from somebody."""
        return self.pool.needed(tokens) - len(one.table) <= self.pool.free - len(self.running)

    def _made_room(self, one: Running, tokens: int) -> bool:
        """Blocks for so many tokens, from the youngest where none is free; False when that is `one` itself."""
        while not self.pool.extend(one.table, tokens):
            youngest = self.running[-1]
            self._set_aside(youngest)
            if youngest is one:
                return False
        return True

    def _set_aside(self, one: Running) -> None:
        self.leave(one, keep=True)
        one.table, one.computed = [], 0
        one.prompt_scores.clear()
        self._aside.appendleft(one)
        self._counters(one.request).set_aside += 1
