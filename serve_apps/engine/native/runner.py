"""The model for ``forward.cpp``: weights packed into panels, K and V in blocks, and one call for each step."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from serve_apps.engine.native.build import load_library
from serve_apps.engine.pieces import Piece, Scores
from starloom.model.model import Block, CodeModel

LANES, HEADS_AT_ONCE = 16, 8
BLOCK_SIZE = LANES
Weights = Literal["float32", "int8"]
_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Linear(ctypes.Structure):
    _fields_ = [("panels", _P), ("scales", _P), ("bias", _P), ("inputs", _I), ("outputs", _I), ("quantized", _I)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _P) for name in ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")),
        *((name, _Linear) for name in ("attention", "projection", "widen", "narrow")),
        ("keys", _P),
        ("values", _P),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, _I) for name in ("layers", "hidden", "heads", "dim", "padded_dim", "vocabulary")),
        ("epsilon", _F),
        *((name, _P) for name in ("tokens", "positions", "norm_weight", "norm_bias")),
        ("layer", ctypes.POINTER(_Layer)),
        ("head", _Linear),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, _I) for name in ("rows", "wanted", "table_width", "context")),
        *((name, _P) for name in ("ids", "position", "sequence", "tables", "wanted_rows")),
        *((name, _P) for name in ("x", "normed", "fused", "mixed", "wide", "scratch", "logits", "best", "log_total")),
        ("threads", _I),
    ]


@dataclass
class _Memory:
    """Keeps alive what the structures point to."""

    arrays: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def of(self, tensor: Tensor) -> int:
        """The address of a tensor's values as they are."""
        return self.array(tensor.detach().contiguous().numpy())

    def array(self, array: np.ndarray[Any, Any]) -> int:
        """The address of an array."""
        self.arrays.append(array)
        return int(array.ctypes.data)


def packed(weight: Tensor) -> Tensor:
    """[outputs, inputs] to [outputs / 16, inputs, 16], the last panel filled up with zeros."""
    outputs, inputs = weight.shape
    filled = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % LANES))
    return filled.view(-1, LANES, inputs).transpose(1, 2).contiguous()


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights and the scale of each output: symmetric, the largest of a row is 127."""
    scales = weight.abs().amax(1).clamp_min(1e-12) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


class NativeRunner:
    """A model in fp32 (or with int8 weights) on the CPU. The model's own tensors are not needed afterwards."""

    block_size = BLOCK_SIZE

    def __init__(self, model: CodeModel, *, blocks: int, threads: int, weights: Weights = "float32") -> None:
        self._library, self._memory, self._threads = load_library(), _Memory(), threads
        self._weights = weights
        config, body = model.config, model.transformer
        self._shape, self.vocabulary = config, config.vocabulary
        padded = config.head_dim + -config.head_dim % LANES
        layers = (_Layer * config.layers)()
        for number, block in enumerate(body.h):
            assert isinstance(block, Block)
            layers[number] = self._layer(block, blocks, config.head_dim, padded)
        plain = [body.wte.weight, body.wpe.weight, body.ln_f.weight, body.ln_f.bias]
        self._model = _Model(
            *(config.layers, config.hidden, config.heads, config.head_dim, padded, config.vocabulary),
            config.norm_epsilon,
            *(self._memory.of(tensor.float()) for tensor in plain),
            layers,
            self._linear(body.wte.weight, None),
        )

    def _layer(self, block: Block, blocks: int, dim: int, padded: int) -> _Layer:
        norms = (block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias)
        linears = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        caches = (np.zeros((blocks, dim, LANES), np.float32), np.zeros((blocks, LANES, padded), np.float32))
        return _Layer(
            *(self._memory.of(norm.float()) for norm in norms),
            *(self._linear(linear.weight, linear.bias) for linear in linears),
            *map(self._memory.array, caches),
        )

    def _linear(self, weight: Tensor, bias: Tensor | None) -> _Linear:
        outputs, inputs = weight.shape
        weight, scales, small = weight.detach().float(), 0, self._weights == "int8"
        if small:
            weight, per_output = quantized(weight)
            scales = self._memory.of(_filled(per_output))
        address = 0 if bias is None else self._memory.of(_filled(bias.float()))
        return _Linear(self._memory.of(packed(weight)), scales, address, inputs, outputs, small)

    def forward(self, pieces: Sequence[Piece]) -> Scores:
        """K and V of all pieces' tokens into the cache, and the logits of the last `wanted` tokens of each piece.

        The caller sees to it that ids and positions are within the model's bounds. The GIL is free meanwhile.

        Raises:
            ValueError: a piece goes beyond its table.
        """
        ids = np.array([token for piece in pieces for token in piece.ids], np.int32)
        lengths = [len(piece.ids) for piece in pieces]
        position = np.concatenate([np.arange(p.start, p.start + len(p.ids), dtype=np.int32) for p in pieces])
        sequence = np.repeat(np.arange(len(pieces), dtype=np.int32), lengths)
        context = -(-(int(position.max()) + 1) // LANES) * LANES
        tables = np.zeros((len(pieces), context // LANES), np.int32)
        for row, piece in zip(tables, pieces, strict=True):
            if len(piece.table) * LANES < piece.start + len(piece.ids):
                raise ValueError("a piece goes beyond its table of blocks")  # it would write to another's
            known = piece.table[: len(row)]
            row[: len(known)] = known
        ends = np.cumsum(lengths)
        wanted_rows = np.concatenate(
            [np.arange(end - p.wanted, end, dtype=np.int32) for end, p in zip(ends, pieces, strict=True)]
        )
        rows, wanted, shape = len(ids), len(wanted_rows), self._shape
        floats = {
            "x": rows * shape.hidden,
            "normed": max(rows, wanted) * shape.hidden,
            "fused": rows * (shape.hidden + 2 * shape.head_dim),
            "mixed": rows * shape.hidden,
            "wide": rows * shape.inner,
            "scratch": self._threads * HEADS_AT_ONCE * context,
        }
        room = {name: np.empty(count, np.float32) for name, count in floats.items()}
        logits = np.empty((wanted, self.vocabulary), np.float32)
        best, log_total = np.empty(wanted, np.int32), np.empty(wanted, np.float32)
        inputs = (ids, position, sequence, tables, wanted_rows)
        outputs = (*room.values(), logits, best, log_total)
        addresses = [array.ctypes.data for array in (*inputs, *outputs)]
        batch = _Batch(rows, wanted, tables.shape[1], context, *addresses, self._threads)
        self._library.forward(ctypes.byref(self._model), ctypes.byref(batch))
        return Scores(logits, best, log_total)


def _filled(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.detach(), (0, -len(values) % LANES))
