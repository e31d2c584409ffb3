"""What an engine takes and what it gives back."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from serve_apps.engine.grammar import Grammar

FinishReason = Literal["length", "stop", "end", "deadline", "cancelled", "error"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy, top_k 0 is all, and so are top_p 1, typical_p 1 and min_p 0.

    `repetition_penalty` is transformers': over prompt and answer, or over the last `penalty_window` tokens of them.
    `frequency_penalty` and `presence_penalty` are OpenAI's: over the answer. `min_p` is a share of the likeliest
    token's probability. `bias` is added to the logits of ids. Before `min_tokens` nothing ends an answer; `stop_ids`
    end it as the model's own ends do, `max_lines` after so many lines (0: any number), `min_indent` before a line that
    begins with less white space, and `grammar` says what it may be. `top_logprobs` alternatives are told of each token;
    with `prompt_logprobs` the prompt's tokens are scored too.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    typical_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    max_lines: int = 0
    min_indent: int = 0
    min_tokens: int = 0
    ignore_end: bool = False
    bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 0
    top_logprobs: int = 0
    prompt_logprobs: bool = False

    def stopped_by(self, more: Sequence[str]) -> "Sampling":
        """The same with these stop strings besides."""
        return replace(self, stop=(*self.stop, *more))

    @property
    def penalized(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


def drawn_seed() -> int:
    """A seed that nobody asked for."""
    return secrets.randbits(48)


@dataclass(frozen=True)
class Scored:
    """A token and its log probability under the unmodified model, and the likeliest ones in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """One token of the answer, the text that it sets free (whole characters only), and on the last why it ended.

    Before the first token of a request with `prompt_logprobs` comes one event without a token: `prompt` has the scores
    of the prompt's tokens but the first. The last event tells how many of the prompt's tokens were `cached`, and
    which stop `word` ended the answer.
    """

    scored: Scored | None
    text: str
    finish: FinishReason | None = None
    prompt: tuple[Scored, ...] = ()
    cached: int = 0
    word: str = ""


@dataclass(eq=False)
class Request:
    """A prompt on its way through an engine; `emit` is called on the engine's thread.

    `user` shares the engine fairly with other users; `deadline` is a time of `time.monotonic`. By `trace` those who
    asked know it; the engine sets when it `began` (`time.perf_counter`), where it knows. `adapter` is the number of the
    engine's adapter that answers, or -1 for the model itself.
    """

    prompt: list[int]
    sampling: Sampling
    emit: Callable[[Event], None]
    user: str = ""
    deadline: float | None = None
    trace: str = ""
    began: float | None = field(default=None, init=False)
    cancelled: bool = field(default=False)
    adapter: int = field(default=-1, init=False)

    def cancel(self) -> None:
        """Ask the engine to stop; its blocks are free after the step under way."""
        self.cancelled = True

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline


@dataclass
class Counters:
    """What an engine has done since it started; tokens unless said otherwise."""

    prompt: int = 0
    generated: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    drafted: int = 0
    accepted: int = 0
    cancelled_requests: int = 0
    late_requests: int = 0
    failed_requests: int = 0
    steps: int = 0
    set_aside: int = 0


@dataclass(frozen=True)
class Load:
    """How busy an engine is now; `places` is how many requests can run at once."""

    running: int
    waiting: int
    cache_use: float
    places: int


class Engine(Protocol):
    """What the API needs of an engine.

    For those who ask, `kernels` names its route, `device` is ``cpu`` or ``cuda``, and `precision` what the weights are
    held in (``float32``, ``bfloat16``, ``int8``).
    """

    context: int
    kernels: str
    device: str
    precision: str
    counters: Counters

    @property
    def load(self) -> Load:
        """How busy it is."""

    @property
    def failure(self) -> str:
        """What keeps it from its work; empty when nothing does."""

    def prepare(self, sampling: Sampling) -> None:
        """Whatever takes long before a request can be queued, on any thread; ValueError when it cannot be served."""

    def submit(self, request: Request) -> None:
        """Queue a request; `Overloaded` when the queue is full, ValueError when it can never be served.

        Raises:
            Stopping: the engine takes no more.
        """

    def close(self) -> None:
        """Stop; what runs ends as cancelled."""


class Overloaded(Exception):  # noqa: N818 - a state, not a fault
    """The queue is full; try again later."""


class Stopping(Exception):  # noqa: N818 - likewise
    """The engine takes no more requests: it was closed, or will not get on; another one takes over."""

    def __init__(self) -> None:
        super().__init__("the engine is stopping; ask again, another one takes over")
