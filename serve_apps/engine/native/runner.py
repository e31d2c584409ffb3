"""The model for ``forward.cpp``: weights packed into panels, K and V in blocks, and one call for each step."""

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from serve_apps.engine.cores import cores_at_hand
from serve_apps.engine.native.build import load_library
from serve_apps.engine.native.threads import ThreadChooser
from serve_apps.engine.pieces import Piece, Scores
from starloom.model.adapter import LowRank
from starloom.model.config import ModelConfig
from starloom.model.model import MATRICES, Block, CodeModel

LANES, HEADS_AT_ONCE = 16, 8
BLOCK_SIZE = LANES
Weights = Literal["float32", "bfloat16", "int8"]
FLOATS, BYTES, HALVED, PAIRS, QUADS = range(5)  # the kinds of weights, as forward.cpp numbers them
GROUP = 64  # inputs that share a scale in products of eight bits, as in forward.cpp
_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Lora(ctypes.Structure):
    _fields_ = [("down", _P), ("up", _P), ("rank", _I)]


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, _P) for name in ("panels", "scales", "bias")),
        *((name, _I) for name in ("inputs", "outputs", "kind")),
        ("loras", _P),
    ]


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
        *((name, _P) for name in ("ids", "position", "sequence", "tables", "wanted_rows", "adapter")),
        *((name, _P) for name in ("x", "normed", "fused", "mixed", "wide", "scratch", "logits")),
        *((name, _P) for name in ("normed_half", "mixed_half", "wide_half", "quads", "best", "log_total", "low")),
        *((name, _I) for name in ("most_rank", "threads")),
    ]


@dataclass
class _Memory:
    """Keeps alive what the structures point to."""

    arrays: list[Any] = field(default_factory=list)

    def of(self, tensor: Tensor) -> int:
        """The address of a tensor's values as they are; nobody else may change them."""
        return self.array(tensor.detach().contiguous().numpy())

    def copied(self, tensor: Tensor) -> int:
        """The address of a copy in fp32: a weight may be the file that it is in, which may be written over or cut."""
        return self.of(tensor.to(torch.float32, copy=True))

    def array(self, array: np.ndarray[Any, Any]) -> int:
        """The address of an array."""
        self.arrays.append(array)
        return int(array.ctypes.data)


def packed(weight: Tensor) -> Tensor:
    """[outputs, inputs] to [outputs / 16, inputs, 16], the last panel filled up with zeros."""
    outputs, inputs = weight.shape
    filled = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % LANES))
    return filled.view(-1, LANES, inputs).transpose(1, 2).contiguous()


def paired(weight: Tensor) -> Tensor:
    """[outputs, inputs] to bfloat16 [outputs / 16, inputs / 2, 16, 2], the last panel filled up with zeros."""
    outputs, inputs = weight.shape
    filled = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % LANES)).to(torch.bfloat16)
    return filled.view(-1, LANES, inputs // 2, 2).transpose(1, 2).contiguous()


def fours(quantized: Tensor) -> Tensor:
    """int8 [outputs, inputs] to uint8 [outputs / 16, inputs / 4, 16, 4], 128 more, the last panel filled up."""
    outputs, inputs = quantized.shape
    filled = torch.nn.functional.pad(quantized.short() + 128, (0, 0, 0, -outputs % LANES)).to(torch.uint8)
    return filled.view(-1, LANES, inputs // 4, 4).transpose(1, 2).contiguous()


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself."""
    return bool(load_library().has_halves())


def whole_vectors(shape: ModelConfig) -> bool:
    """Whether a model's sizes are whole vectors where its numbers pass as bfloat16 or in eight bits."""
    return not (shape.head_dim % LANES or shape.inner % LANES)


def best_weights(model: CodeModel) -> Weights:
    """bfloat16 where the processor multiplies it or the weights lose nothing by it, and else float32."""
    return "bfloat16" if has_bfloat16() or all(map(_is_halved, model.parameters())) else "float32"


def _is_halved(weight: Tensor) -> bool:
    return torch.equal(weight, weight.to(torch.bfloat16).to(weight.dtype))


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights and the scale of each output: symmetric, the largest of a row is 127."""
    scales = weight.abs().amax(1).clamp_min(1e-12) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


class NativeRunner:
    """A model on the CPU, with weights in fp32, bfloat16 or int8.

    Those in bfloat16 are made floats again where they are used; the inputs of products are bfloat16 too where the
    processor multiplies such quickly (AVX-512 BF16 of AMD). With int8 weights the inputs of products are in eight bits,
    each `GROUP` of them with a scale of its own, where the processor multiplies such (AVX-512 VNNI). Both want a model
    whose sizes are whole vectors. Sums are in fp32, those within a group exact. The model's own tensors are not needed
    afterwards.
    """

    block_size = BLOCK_SIZE
    failure = ""

    def __init__(
        self,
        model: CodeModel,
        *,
        blocks: int,
        threads: int,
        weights: Weights = "float32",
        adapters: Sequence[LowRank] = (),
    ) -> None:
        """Pieces name `adapters` by their number. `threads` 0: as many of the cores at hand as are quickest."""
        self._library, self._memory, self._threads = load_library(), _Memory(), threads
        self._chooser = None if threads else ThreadChooser(cores_at_hand())
        self._weights = self.precision = weights
        suited = whole_vectors(model.config)
        self._pairs = weights == "bfloat16" and bool(self._library.has_quick_halves()) and suited
        self._fours = weights == "int8" and bool(self._library.has_quads()) and suited
        self._adapters = adapters
        self._most_rank = max((len(down) for one in adapters for down, _ in one.values()), default=0)
        config, body = model.config, model.transformer
        self._shape, self.vocabulary = config, config.vocabulary
        padded = config.head_dim + -config.head_dim % LANES
        layers = (_Layer * config.layers)()
        for number, block in enumerate(body.h):
            assert isinstance(block, Block)
            layers[number] = self._layer(f"transformer.h.{number}", block, blocks, padded)
        plain = [body.wte.weight, body.wpe.weight, body.ln_f.weight, body.ln_f.bias]
        self._model = _Model(
            *(config.layers, config.hidden, config.heads, config.head_dim, padded, config.vocabulary),
            config.norm_epsilon,
            *map(self._memory.copied, plain),
            layers,
            self._linear("", body.wte.weight, None),
        )

    def _layer(self, name: str, block: Block, blocks: int, padded: int) -> _Layer:
        norms = (block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias)
        dim = self._shape.head_dim
        caches = (np.zeros((blocks, dim, LANES), np.float32), np.zeros((blocks, LANES, padded), np.float32))
        return _Layer(
            *map(self._memory.copied, norms),
            *(self._matrix(f"{name}.{matrix}", block.get_submodule(matrix)) for matrix in MATRICES),
            *map(self._memory.array, caches),
        )

    def _matrix(self, name: str, layer: nn.Module) -> _Linear:
        assert isinstance(layer, nn.Linear)
        return self._linear(f"{name}.weight", layer.weight, layer.bias)

    def _loras(self, name: str) -> int:
        """The address of what each adapter adds to a product; 0 where none does."""
        if not any(name in one for one in self._adapters):
            return 0
        loras = (_Lora * len(self._adapters))()
        for number, adapter in enumerate(self._adapters):
            if name in adapter:
                down, up = adapter[name]
                loras[number] = _Lora(self._memory.of(down.float()), self._memory.of(packed(up.float())), len(down))
        self._memory.arrays.append(loras)
        return ctypes.addressof(loras)

    def _linear(self, name: str, weight: Tensor, bias: Tensor | None) -> _Linear:
        outputs, inputs = weight.shape
        loras = self._loras(name)
        weight = weight.detach().float()
        address = 0 if bias is None else self._memory.copied(_filled(bias))
        if self._weights == "bfloat16":  # numpy has no such numbers: their bits stand for them
            kind, made = (PAIRS, paired(weight)) if self._pairs else (HALVED, packed(weight.to(torch.bfloat16)))
            return _Linear(self._memory.of(made.view(torch.int16)), 0, address, inputs, outputs, kind, loras)
        if self._weights == "int8":
            weight, per_output = quantized(weight)
            scales = self._memory.of(_filled(per_output))
            kind, made = (QUADS, fours(weight)) if self._fours else (BYTES, packed(weight))
            return _Linear(self._memory.of(made), scales, address, inputs, outputs, kind, loras)
        return _Linear(self._memory.of(packed(weight)), 0, address, inputs, outputs, FLOATS, loras)

    def close(self) -> None:
        """Nothing to end."""

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
        adapter = np.repeat(np.array([piece.adapter for piece in pieces], np.int32), lengths)
        adapted = bool((adapter >= 0).any())
        threads = self._threads if self._chooser is None else self._chooser.threads(rows)
        floats = {
            "x": rows * shape.hidden,
            "normed": max(rows, wanted) * shape.hidden,
            "fused": rows * (shape.hidden + 2 * shape.head_dim),
            "mixed": rows * shape.hidden,
            "wide": rows * shape.inner,
            "scratch": threads * HEADS_AT_ONCE * context,
        }
        room = {name: np.empty(count, np.float32) for name, count in floats.items()}
        halves = [np.empty(floats[name] if self._pairs else 0, np.uint16) for name in ("normed", "mixed", "wide")]
        widest = max(shape.hidden, shape.inner)
        fours_of_row = widest // 4 + 2 * -(-widest // GROUP) if self._fours else 0
        quads = np.empty(max(rows, wanted) * fours_of_row, np.int32)
        logits = np.empty((wanted, self.vocabulary), np.float32)
        best, log_total = np.empty(wanted, np.int32), np.empty(wanted, np.float32)
        low = np.empty(rows * self._most_rank if adapted else 0, np.float32)
        inputs = [array.ctypes.data for array in (ids, position, sequence, tables, wanted_rows)]
        inputs.append(adapter.ctypes.data if adapted else 0)
        outputs: tuple[np.ndarray[Any, Any], ...] = (*room.values(), logits, *halves, quads, best, log_total, low)
        addresses = [*inputs, *(array.ctypes.data for array in outputs)]
        batch = _Batch(rows, wanted, tables.shape[1], context, *addresses, self._most_rank, threads)
        began = time.perf_counter()
        self._library.forward(ctypes.byref(self._model), ctypes.byref(batch))
        if self._chooser is not None:
            self._chooser.learn(rows, threads, time.perf_counter() - began)
        return Scores(logits, best, log_total)


def _filled(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.detach(), (0, -len(values) % LANES))
