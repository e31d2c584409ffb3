"""The forward pass in plain PyTorch: on machines without a C++ compiler, and on graphics cards.

The keys and values, which all query heads share, are never expanded in memory. Short pieces, such as those that decode,
are attended to together: their tables, filled up to the longest, are gathered at once. Steps in which every sequence
decodes one token are `decoding.py`'s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_apps.engine.decoding import Decoder, decodes
from serve_apps.engine.pieces import Piece, Scores
from serve_apps.engine.slices import ALONE, Slice, SlicedModel, TensorGroup

SHORT = 16  # rows of a piece that is attended to together with others: a token and its drafts
Precision = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class _Group:
    """Pieces that are attended to at once, `rows` of the batch each, filled up to the longest with `real` false.

    `places` [pieces, keys] are those of the cache, and `seen` [pieces, 1, rows, keys] says which of them a row sees.
    """

    rows: Tensor
    real: Tensor
    places: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Sizes:
    """Of the cache, on which device, and what it and the weights are held in.

    `rounded` steps of decoding have few sizes, which is what a card, unless told, records them by.
    """

    blocks: int
    block_size: int
    device: Device = "cpu"
    precision: Precision = "float32"
    rounded: bool | None = None

    @property
    def dtype(self) -> torch.dtype:
        """That of weights, cache and sums between layers."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def recorded(self) -> bool:
        """Whether steps of decoding are rounded."""
        return self.device == "cuda" if self.rounded is None else self.rounded


class TorchRunner:
    """A model or a process's slice of it, and its cache of [layers, K and V, blocks × size, head_dim].

    Softmax and logits are in fp32 whatever the precision.
    """

    failure = ""

    def __init__(self, held: Slice, sizes: Sizes, group: TensorGroup = ALONE) -> None:
        """Pieces name the adapters of `held` by their number."""
        self.block_size, self.precision = sizes.block_size, sizes.precision
        device = torch.device(f"cuda:{group.rank}" if sizes.device == "cuda" else "cpu")
        self._model = SlicedModel(held, group, device)
        shape = (held.config.layers, 2, (sizes.blocks + 1) * sizes.block_size, held.config.head_dim)
        self._cache = torch.zeros(shape, dtype=sizes.dtype, device=device)
        self._decoder = Decoder(self._model, self._cache, sizes.block_size, rounded=sizes.recorded)

    @torch.inference_mode()
    def compute(self, pieces: Sequence[Piece]) -> Tensor:
        """K and V of all pieces' tokens into the cache; fp32 [wanted, vocabulary] logits, good until the next step."""
        return self._decoder.logits(pieces) if decodes(pieces) else self._logits(pieces)

    def forward(self, pieces: Sequence[Piece]) -> Scores:
        """K and V of all pieces' tokens into the cache, and the logits that are wanted."""
        logits = self.compute(pieces)
        best, log_total = logits.argmax(-1).int(), logits.logsumexp(-1)
        return Scores(logits.cpu().numpy(), best.cpu().numpy(), log_total.cpu().numpy())

    def close(self) -> None:
        """Nothing to end."""

    def _logits(self, pieces: Sequence[Piece]) -> Tensor:
        device = self._cache.device
        ids = torch.tensor([token for piece in pieces for token in piece.ids], device=device)
        positions = torch.cat([torch.arange(p.start, p.start + len(p.ids)) for p in pieces]).to(device)
        slots = [self._slots(piece) for piece in pieces]
        written = torch.cat([s[p.start :] for s, p in zip(slots, pieces, strict=True)]).to(device)
        groups = list(_grouped(pieces, slots, device))
        ends = list(accumulate(len(piece.ids) for piece in pieces))
        spans = [
            (slice(end - len(piece.ids), end), piece.adapter)
            for end, piece in zip(ends, pieces, strict=True)
            if piece.adapter >= 0
        ]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self._cache[layer, 0].index_copy_(0, written, key)
            self._cache[layer, 1].index_copy_(0, written, value)
            return _attended(query, self._model.heads, self._cache[layer], groups)

        x = self._model.states(ids, positions, attend, spans)
        rows = [row for end, piece in zip(ends, pieces, strict=True) for row in range(end - piece.wanted, end)]
        return self._model.logits(x[rows])

    def _slots(self, piece: Piece) -> Tensor:
        length = piece.start + len(piece.ids)
        places = torch.tensor(piece.table)[:, None] * self.block_size + torch.arange(self.block_size)
        return places.flatten()[:length]


def _grouped(pieces: Sequence[Piece], slots: Sequence[Tensor], device: torch.device) -> Iterator[_Group]:
    """All short pieces together, and each of the others by itself."""
    firsts = torch.tensor([0, *(len(piece.ids) for piece in pieces)]).cumsum(0).tolist()
    short = [number for number, piece in enumerate(pieces) if len(piece.ids) <= SHORT]
    long = [[number] for number, piece in enumerate(pieces) if len(piece.ids) > SHORT]
    for numbers in [short] * bool(short) + long:
        most = max(len(pieces[number].ids) for number in numbers)
        keys = max(len(slots[number]) for number in numbers)
        step, key = torch.arange(most), torch.arange(keys)
        counts = torch.tensor([len(pieces[number].ids) for number in numbers])[:, None]
        starts = torch.tensor([pieces[number].start for number in numbers])[:, None, None]
        rows = torch.tensor([firsts[number] for number in numbers])[:, None] + step.clamp(max=counts - 1)
        seen = key <= starts + step[:, None]  # a row that only fills up sees more than there is, and is left out
        # filled up with a place of its own: what others have there must not even be multiplied by nothing
        filled = (F.pad(own, (0, keys - len(own)), value=int(own[0])) for own in (slots[number] for number in numbers))
        places = torch.stack(list(filled))
        real = step < counts
        yield _Group(rows.to(device), real.to(device), places.to(device), seen[:, None].to(device))


def _attended(query: Tensor, heads: int, cache: Tensor, groups: Sequence[_Group]) -> Tensor:
    """Queries [rows, heads × head_dim] over a layer's keys and values, [2, slots, head_dim], to the same shape."""
    mixed = torch.empty_like(query)
    width = query.shape[1]
    for group in groups:
        pieces, rows = group.rows.shape
        asked = query[group.rows].view(pieces, rows, heads, -1).transpose(1, 2)
        keys, values = (cache[n][group.places][:, None].expand(-1, heads, -1, -1) for n in (0, 1))
        got = F.scaled_dot_product_attention(asked, keys, values, attn_mask=group.seen)
        mixed[group.rows[group.real]] = got.transpose(1, 2).reshape(pieces, rows, width)[group.real]
    return mixed
