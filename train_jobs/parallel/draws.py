"""Dropout whose masks follow from the sample, whatever the layout and the micro batch.

A mask is drawn from (seed, number of the sample, layer, place in the layer) by a generator of its own. So pipeline,
data ranks, accumulation and recomputation change no mask; only within attention, where tensor ranks hold different
heads, the rank is drawn in as well.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from starloom.errors import RunError
from starloom.tokens.permutation import mix

Site = Literal["embedding", "attention", "projection", "feed-forward"]
_SITES: dict[Site, int] = {"embedding": 0, "attention": 1, "projection": 2, "feed-forward": 3}
Samples = tuple[int, ...]  # a key for each row of a micro batch


@dataclass
class Draws:
    """What one process draws masks from: `begin` a step, then `advance` before each forward pass of a micro batch."""

    seed: int = 0
    rows: int = 1  # samples of a micro batch
    _pieces: int = 1
    _samples: Samples = ()
    _next: int = 0

    @property
    def samples(self) -> Samples:
        """Of the micro batch that is in the forward pass.

        Raises:
            RunError: none was begun, so that no mask could be drawn.
        """
        if not self._samples:
            raise RunError("dropout has no samples to draw masks for; begin a step and advance first")
        return self._samples

    def begin(self, first: int, pieces: int = 1) -> None:
        """A step whose first sample of this data rank has the number `first`; with that many short ones for each."""
        self._next, self._pieces = first * pieces, pieces

    def advance(self) -> None:
        """The next micro batch comes: each stage sees them in the same order."""
        rows = self.rows * self._pieces
        self._samples = tuple(mix(self.seed ^ mix(self._next + row)) for row in range(rows))
        self._next += rows


def mask_key(sample: int, layer: int, site: Site, rank: int = 0) -> int:
    """The seed of one mask, a positive int64."""
    return mix(sample ^ mix(layer * 8 + _SITES[site] + (rank << 32))) >> 1


def drop(x: Tensor, rate: float, samples: Samples, layer: int, site: Site, *, parts: int = 1, part: int = 0) -> Tensor:
    """Dropout of [batch, sequence, ...]: every row has a mask of its own sample's.

    Where x is one of several `parts` of the sequence, the mask is that `part` of the whole sequence's.
    """
    masks = []
    for sample in samples:
        generator = torch.Generator(device=x.device)
        generator.manual_seed(mask_key(sample, layer, site))
        whole = torch.rand((parts * x.shape[1], *x.shape[2:]), generator=generator, device=x.device)
        masks.append(whole.chunk(parts)[part] < rate)
    return x.masked_fill(torch.stack(masks), 0.0) / (1 - rate)
