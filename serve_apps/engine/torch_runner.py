"""The forward pass in plain PyTorch, for machines without a C++ compiler. The shared head is never expanded."""

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serve_apps.engine.pieces import Piece, Scores
from starloom.model.adapter import LowRank
from starloom.model.model import Attention, Block, CodeModel


class TorchRunner:
    """A model and its cache of [layers, K and V, blocks × size, head_dim]."""

    precision: Final = "float32"

    def __init__(self, model: CodeModel, *, blocks: int, block_size: int, adapters: Sequence[LowRank] = ()) -> None:
        """Pieces name `adapters` by their number."""
        self.model, self.block_size, self._adapters = model, block_size, adapters
        shape = (model.config.layers, 2, blocks * block_size, model.config.head_dim)
        self._cache = torch.zeros(shape, dtype=model.transformer.wte.weight.dtype)

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> Scores:
        """K and V of all pieces' tokens into the cache, and the logits that are wanted."""
        body = self.model.transformer
        ids = torch.tensor([token for piece in pieces for token in piece.ids])
        positions = torch.cat([torch.arange(p.start, p.start + len(p.ids)) for p in pieces])
        slots = [self._slots(piece) for piece in pieces]
        written = torch.cat([s[p.start :] for s, p in zip(slots, pieces, strict=True)])
        x = body.wte(ids) + body.wpe(positions)
        for layer, block in enumerate(body.h):
            assert isinstance(block, Block)
            name = f"transformer.h.{layer}"
            x = x + self._attend(f"{name}.attn", block.attn, block.ln_1(x), self._cache[layer], pieces, slots, written)
            wide = F.gelu(
                self._product(f"{name}.mlp.c_fc", block.mlp.c_fc, block.ln_2(x), pieces),
                approximate=block.mlp.gelu_form,
            )
            x = x + self._product(f"{name}.mlp.c_proj", block.mlp.c_proj, wide, pieces)
        ends = torch.tensor([len(piece.ids) for piece in pieces]).cumsum(0).tolist()
        rows = [row for end, piece in zip(ends, pieces, strict=True) for row in range(end - piece.wanted, end)]
        logits = F.linear(body.ln_f(x[rows]), body.wte.weight).float()
        best, log_total = logits.argmax(-1).int(), logits.logsumexp(-1)
        return Scores(logits.numpy(), best.numpy(), log_total.numpy())

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

    def _attend(
        self,
        name: str,
        layer: Attention,
        x: Tensor,
        cache: Tensor,
        pieces: Sequence[Piece],
        slots: list[Tensor],
        written: Tensor,
    ) -> Tensor:
        width, dim, heads = layer.heads * layer.head_dim, layer.head_dim, layer.heads
        query, key, value = self._product(f"{name}.c_attn", layer.c_attn, x, pieces).split((width, dim, dim), dim=1)
        cache[0].index_copy_(0, written, key)
        cache[1].index_copy_(0, written, value)
        mixed, row = torch.empty_like(query), 0
        for piece, places in zip(pieces, slots, strict=True):
            rows = slice(row, row + len(piece.ids))
            row += len(piece.ids)
            scores = query[rows].reshape(-1, heads, dim) @ cache[0][places].T / math.sqrt(dim)
            if len(piece.ids) > 1:
                ahead = torch.arange(len(places)) > torch.arange(piece.start, len(places))[:, None]
                scores.masked_fill_(ahead[:, None], -math.inf)
            mixed[rows] = (scores.float().softmax(-1).to(value.dtype) @ cache[1][places]).reshape(-1, width)
        return self._product(f"{name}.c_proj", layer.c_proj, mixed, pieces)
