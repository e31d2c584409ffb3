"""The forward pass in plain PyTorch: on machines without a C++ compiler, and on graphics cards.

The keys and values, which all query heads share, are never expanded in memory. Short pieces, such as those that decode,
are attended to together: their tables, filled up to the longest, are gathered at once. Steps in which every sequence
decodes one token are `decoding.py`'s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serve_apps.engine.decoding import Decoder, decodes
from serve_apps.engine.pieces import Piece, Scores
from starloom.model.adapter import LowRank
from starloom.model.model import Attention, Block, CodeModel

SHORT = 16  # rows of a piece that is attended to together with others: a token and its drafts
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class _Group:
    """Pieces that are attended to at once, `rows` of the batch each, filled up to the longest with `real` false.

    `places` [pieces, keys] are those of the cache, and `seen` [pieces, 1, rows, keys] says which of them a row sees.
    """

    rows: Tensor
    real: Tensor
    places: Tensor
    seen: Tensor


class TorchRunner:
    """A model and its cache of [layers, K and V, blocks × size, head_dim], both on `device` in `precision`.

    Softmax and logits are in fp32 whatever the precision.
    """

    def __init__(
        self,
        model: CodeModel,
        *,
        blocks: int,
        block_size: int,
        adapters: Sequence[LowRank] = (),
        device: str = "cpu",
        precision: Precision = "float32",
        rounded: bool | None = None,
    ) -> None:
        """Pieces name `adapters` by their number. The model itself is moved to the device.

        `rounded` steps of decoding have few sizes, which is what a card, unless told, records them by.
        """
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.model, self.block_size = model.to(device, dtype), block_size
        if device == "cpu":
            for weight in self.model.parameters():  # it may be the file that it is in, which may be written over or cut
                weight.data = weight.data.clone()
        self.precision = precision
        self._adapters = [
            {name: (down.to(device, dtype), up.to(device, dtype)) for name, (down, up) in one.items()}
            for one in adapters
        ]
        shape = (model.config.layers, 2, (blocks + 1) * block_size, model.config.head_dim)
        self._cache = torch.zeros(shape, dtype=dtype, device=device)
        rounded = device == "cuda" if rounded is None else rounded
        self._decoder = Decoder(self.model, self._cache, block_size, rounded=rounded)

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> Scores:
        """K and V of all pieces' tokens into the cache, and the logits that are wanted."""
        logits = self._decoder.logits(pieces) if decodes(pieces) else self._logits(pieces)
        best, log_total = logits.argmax(-1).int(), logits.logsumexp(-1)
        return Scores(logits.cpu().numpy(), best.cpu().numpy(), log_total.cpu().numpy())

    def _logits(self, pieces: Sequence[Piece]) -> Tensor:
        body, device = self.model.transformer, self._cache.device
        ids = torch.tensor([token for piece in pieces for token in piece.ids], device=device)
        positions = torch.cat([torch.arange(p.start, p.start + len(p.ids)) for p in pieces]).to(device)
        slots = [self._slots(piece) for piece in pieces]
        written = torch.cat([s[p.start :] for s, p in zip(slots, pieces, strict=True)]).to(device)
        groups = list(_grouped(pieces, slots, device))
        x = body.wte(ids) + body.wpe(positions)
        for layer, block in enumerate(body.h):
            assert isinstance(block, Block)
            name = f"transformer.h.{layer}"
            fused = self._product(f"{name}.attn.c_attn", block.attn.c_attn, block.ln_1(x), pieces)
            mixed = _attended(block.attn, fused, self._cache[layer], groups, written)
            x = x + self._product(f"{name}.attn.c_proj", block.attn.c_proj, mixed, pieces)
            wide = self._product(f"{name}.mlp.c_fc", block.mlp.c_fc, block.ln_2(x), pieces)
            wide = F.gelu(wide, approximate=block.mlp.gelu_form)
            x = x + self._product(f"{name}.mlp.c_proj", block.mlp.c_proj, wide, pieces)
        ends = torch.tensor([len(piece.ids) for piece in pieces]).cumsum(0).tolist()
        rows = [row for end, piece in zip(ends, pieces, strict=True) for row in range(end - piece.wanted, end)]
        return F.linear(body.ln_f(x[rows]), body.wte.weight).float()

    def _product(self, name: str, linear: nn.Module, x: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """A layer's output for the rows of all pieces, with what their adapters add."""
        y: Tensor = linear(x)
        row = 0
        for piece in pieces:
            rows = slice(row, row + len(piece.ids))
            row += len(piece.ids)
            if piece.adapter >= 0 and f"{name}.weight" in self._adapters[piece.adapter]:
                down, up = self._adapters[piece.adapter][f"{name}.weight"]
                y[rows] += x[rows] @ down.T @ up.T
        return y

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


def _attended(layer: Attention, fused: Tensor, cache: Tensor, groups: Sequence[_Group], written: Tensor) -> Tensor:
    """[rows, heads × head_dim] from queries, keys and values [rows, ...]; the latter two go into the cache first."""
    width, dim, heads = layer.heads * layer.head_dim, layer.head_dim, layer.heads
    query, key, value = fused.split((width, dim, dim), dim=1)
    cache[0].index_copy_(0, written, key)
    cache[1].index_copy_(0, written, value)
    mixed = torch.empty_like(query)
    for group in groups:
        pieces, rows = group.rows.shape
        asked = query[group.rows].view(pieces, rows, heads, dim).transpose(1, 2)
        keys, values = (cache[n][group.places][:, None].expand(-1, heads, -1, -1) for n in (0, 1))
        got = F.scaled_dot_product_attention(asked, keys, values, attn_mask=group.seen)
        mixed[group.rows[group.real]] = got.transpose(1, 2).reshape(pieces, rows, width)[group.real]
    return mixed
