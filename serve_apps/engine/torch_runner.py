"""The forward pass in plain PyTorch, for machines without a C++ compiler. The shared head is never expanded."""

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_apps.engine.pieces import Piece, Scores
from starloom.model.model import Attention, Block, CodeModel


class TorchRunner:
    """A model and its cache of [layers, K and V, blocks × size, head_dim]."""

    precision: Final = "float32"

    def __init__(self, model: CodeModel, *, blocks: int, block_size: int) -> None:
        self.model, self.block_size = model, block_size
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
            x = x + self._attend(block.attn, block.ln_1(x), self._cache[layer], pieces, slots, written)
            x = x + block.mlp(block.ln_2(x))
        ends = torch.tensor([len(piece.ids) for piece in pieces]).cumsum(0).tolist()
        rows = [row for end, piece in zip(ends, pieces, strict=True) for row in range(end - piece.wanted, end)]
        logits = F.linear(body.ln_f(x[rows]), body.wte.weight).float()
        best, log_total = logits.argmax(-1).int(), logits.logsumexp(-1)
        return Scores(logits.numpy(), best.numpy(), log_total.numpy())

    def _slots(self, piece: Piece) -> Tensor:
        length = piece.start + len(piece.ids)
        places = torch.tensor(piece.table)[:, None] * self.block_size + torch.arange(self.block_size)
        return places.flatten()[:length]

    def _attend(
        self, layer: Attention, x: Tensor, cache: Tensor, pieces: Sequence[Piece], slots: list[Tensor], written: Tensor
    ) -> Tensor:
        width, dim, heads = layer.heads * layer.head_dim, layer.head_dim, layer.heads
        query, key, value = layer.c_attn(x).split((width, dim, dim), dim=1)
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
        out: Tensor = layer.c_proj(mixed)
        return out
