"""What a runner takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Tokens of one sequence to compute: `ids` stand at positions `start`, `start + 1`, ..., K and V in `table`.

    The logits after the last `wanted` of them are asked for; `adapter` is the number of the one that is added, or -1.
    """

    ids: Sequence[int]
    start: int
    table: Sequence[int]
    wanted: int
    adapter: int = -1


@dataclass(frozen=True)
class Scores:
    """fp32 [wanted, vocabulary] logits, the largest one's id, and the logarithm of the sum of their exponentials."""

    logits: np.ndarray[Any, Any]
    best: np.ndarray[Any, Any]
    log_total: np.ndarray[Any, Any]


class Runner(Protocol):
    """A model with its cache; `precision` is what its weights are held in."""

    block_size: int

    @property
    def precision(self) -> str:
        """``float32``, ``bfloat16`` or ``int8``."""

    @property
    def failure(self) -> str:
        """What keeps it from ever computing again, or nothing."""

    def forward(self, pieces: Sequence[Piece]) -> Scores:
        """K and V of all pieces' tokens into the cache; the logits that are wanted, in the order of the pieces."""

    def close(self) -> None:
        """End what it has started; afterwards it computes no more."""
