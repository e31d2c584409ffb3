"""Where documents begin within the rows of a micro batch, for attention that stays inside of them.

A row is a window of documents one after the other, each after an end-of-text. That token opens the next document: the
model sees it first and tells the document's first token from it, as it does when a document is read alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from starloom.errors import RunError


@dataclass(frozen=True)
class Segments:
    """Of one micro batch: what each position may attend to, and its place in its document."""

    mask: Tensor  # bool [batch, 1, sequence, sequence]
    positions: Tensor  # int64 [batch, sequence]


def segments_of(tokens: Tensor, end: int) -> Segments:
    """The segments of [batch, sequence] ids whose documents are parted by the id `end`."""
    opens = tokens == end
    number = opens.cumsum(dim=1)
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    # the place of the latest opening up to here; a document that began before the window begins with it
    started = torch.where(opens, places, 0).cummax(dim=1).values
    same = number.unsqueeze(2) == number.unsqueeze(1)
    return Segments(same.tril().unsqueeze(1), places - started)


class Documents:
    """What one process masks by: `begin` a step, then `advance` before each forward pass of a micro batch.

    Every stage of a pipeline reads the tokens for this, as only the first and the last are handed them.
    """

    def __init__(self, end: int | None) -> None:
        """`end` is the id of end-of-text; None: nothing is masked."""
        self.end = end
        self.current: Segments | None = None
        self._tokens: Iterator[Tensor] = iter(())

    def begin(self, tokens: Iterator[Tensor]) -> None:
        """A step, or a round of held-out batches, whose micro batches have these [batch, sequence] ids."""
        self._tokens = tokens

    def advance(self) -> None:
        """The next micro batch comes.

        Raises:
            RunError: it was not announced.
        """
        if self.end is None:
            return
        tokens = next(self._tokens, None)
        if tokens is None:
            raise RunError("a micro batch came whose documents are not known; begin a step before it")
        self.current = segments_of(tokens, self.end)
