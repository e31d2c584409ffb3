"""Steps in which every sequence decodes one token: on a graphics card recorded once for each size, and replayed.

A step of a small model is hundreds of kernels, each shorter than the time that Python takes to start it; a CUDA graph
starts them all at once. It computes with the same memory each time, so batches and tables are filled up to sizes of
which there are few. Nothing here but the recording itself needs a card.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from serve_apps.engine.pieces import Piece
from serve_apps.engine.slices import SlicedModel

LEAST_BLOCKS = 8  # of a table that is filled up
WARM_STEPS = 3  # before a recording: libraries choose and load their kernels
_ID, _POSITION, _SLOT, _TABLE = range(4)  # columns of a step's numbers; the table goes on to the end


def decodes(pieces: Sequence[Piece]) -> bool:
    """Whether each piece is one token whose logits are wanted, without an adapter."""
    return all(len(piece.ids) == piece.wanted == 1 and piece.adapter < 0 for piece in pieces)


class Decoder:
    """Decoding steps of a model over its cache of [layers, K and V, blocks × size, head_dim].

    With `rounded`, batches and tables are filled up to powers of two; steps on a card are recorded then. What only
    fills up writes into the cache's last block, which nobody else may use.
    """

    def __init__(self, model: SlicedModel, cache: Tensor, block_size: int, *, rounded: bool) -> None:
        self._model, self._cache, self._size, self._rounded = model, cache, block_size, rounded
        self._spare = cache.shape[2] // block_size - 1
        self._recordings: dict[tuple[int, ...], _Recording] = {}
        self._pool: Any = None

    def logits(self, pieces: Sequence[Piece]) -> Tensor:
        """fp32 [pieces, vocabulary], on the cache's device; good until the next step."""
        numbers = self._numbers(pieces)
        if self._cache.is_cuda and self._rounded:
            return self._recorded(numbers)[: len(pieces)]
        return self._step(numbers.to(self._cache.device))[: len(pieces)]

    def _numbers(self, pieces: Sequence[Piece]) -> Tensor:
        """[sequences, 3 + blocks] of int64: id, position, slot that is written, and the table."""
        blocks = max(piece.start // self._size + 1 for piece in pieces)
        count = len(pieces)
        if self._rounded:
            count, blocks = _power_of_two(count), max(LEAST_BLOCKS, _power_of_two(blocks))
        made = np.zeros((count, _TABLE + blocks), np.int64)
        made[:, _SLOT], made[:, _TABLE:] = self._spare * self._size, self._spare
        for row, piece in zip(made, pieces, strict=False):
            used = piece.start // self._size + 1
            row[_ID], row[_POSITION] = piece.ids[0], piece.start
            row[_SLOT] = piece.table[used - 1] * self._size + piece.start % self._size
            # filled up with a block of its own: what others have in theirs must not even be multiplied by nothing
            row[_TABLE:], row[_TABLE : _TABLE + used] = piece.table[0], piece.table[:used]
        return torch.from_numpy(made)

    def _recorded(self, numbers: Tensor) -> Tensor:
        found = self._recordings.get(tuple(numbers.shape))
        if found is None:
            found = self._recordings[tuple(numbers.shape)] = _Recording(self._step, numbers, self._pool)
            self._pool = found.graph.pool()  # they run one after the other, and share what memory they need
        return found.replayed(numbers)

    def _step(self, numbers: Tensor) -> Tensor:
        """One step; every size in it is one of the shape of `numbers`, and nothing is read back."""
        cache, dim, heads = self._cache, self._model.config.head_dim, self._model.heads
        position, slot, table = numbers[:, _POSITION], numbers[:, _SLOT], numbers[:, _TABLE:]
        seen = (torch.arange(table.shape[1] * self._size, device=cache.device) <= position[:, None])[:, None, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache[layer, 0].index_copy_(0, slot, key)
            cache[layer, 1].index_copy_(0, slot, value)
            keys, values = (cache[layer, n].view(-1, self._size, dim)[table].flatten(1, 2)[:, None] for n in (0, 1))
            # the heads share keys and values: they are to attention what rows of one sequence are
            mixed = F.scaled_dot_product_attention(query.view(-1, 1, heads, dim), keys, values, attn_mask=seen)
            return mixed.reshape(query.shape)

        return self._model.logits(self._model.states(numbers[:, _ID], position, attend))


class _Recording:
    """A step of one size as a CUDA graph."""

    def __init__(self, step: Callable[[Tensor], Tensor], numbers: Tensor, pool: Any) -> None:
        self._numbers, self.graph = numbers.cuda(), torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_STEPS):  # the same numbers write the same keys and values again
                step(self._numbers)
        torch.cuda.current_stream().wait_stream(side)
        # another model's engine may be at work on the card in a thread of its own
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self._logits = step(self._numbers)

    def replayed(self, numbers: Tensor) -> Tensor:
        """The logits of a step with these numbers."""
        self._numbers.copy_(numbers)
        self.graph.replay()
        return self._logits


def _power_of_two(count: int) -> int:
    """The least one that is not below `count`."""
    return 1 << (count - 1).bit_length()
