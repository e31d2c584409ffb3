"""What an engine takes and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["length", "stop", "cancelled", "error"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_end: bool = False


@dataclass(frozen=True)
class Event:
    """One sampled token: the text that it sets free (whole characters only) and, on the last, why it ended."""

    token: int | None
    logprob: float
    text: str
    finish: FinishReason | None = None


@dataclass(eq=False)
class Request:
    """A prompt on its way through an engine; `emit` is called on the engine's thread."""

    prompt: list[int]
    sampling: Sampling
    emit: Callable[[Event], None]
    cancelled: bool = field(default=False)

    def cancel(self) -> None:
        """Ask the engine to stop; its blocks are free after the step under way."""
        self.cancelled = True


class Engine(Protocol):
    """What the API needs of an engine."""

    context: int

    def submit(self, request: Request) -> None:
        """Queue a request; `Overloaded` when the queue is full."""

    def close(self) -> None:
        """Stop the engine's thread."""


class Overloaded(Exception):  # noqa: N818 - a state, not a fault
    """The queue is full; try again later."""
