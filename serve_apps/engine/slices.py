"""A model's layers on one device, cut along the tensor axis as training cuts them; whole where there is one process.

Query heads and the feed-forward's inner width are cut, and rows of the embedding, which is the output layer too; K and
V, which all heads share, every process holds (Shoeybi et al., Megatron-LM, 2019; Shazeer, multi-query attention, 2019).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from starloom.model.adapter import LowRank
from starloom.model.config import ModelConfig
from starloom.model.model import MATRICES, CodeModel

CUT_OUTPUTS, CUT_INPUTS = ("attn.c_attn", "mlp.c_fc", "wte"), ("attn.c_proj", "mlp.c_proj")
# a layer's number, its queries [rows, own heads × head_dim], keys and values [rows, head_dim] to the queries' shape
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Spans = Sequence[tuple[slice, int]]  # rows of a batch, and the number of the adapter that is added to their products


@dataclass
class TensorGroup:
    """A process's place on the tensor axis, and the group of processes that it sums with once they have met."""

    rank: int = 0
    size: int = 1
    processes: Any = None

    def summed(self, x: Tensor) -> Tensor:
        """The sum of all processes' tensors [...], in place."""
        if self.size > 1:
            self.processes.allreduce([x]).wait()
        return x

    def joined(self, x: Tensor) -> Tensor:
        """All processes' [rows, part], one after the other: [rows, size × part]."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        self.processes.allgather([parts], [x]).wait()
        return torch.cat(parts, dim=1)


ALONE = TensorGroup()


@dataclass(frozen=True)
class Slice:
    """What one process holds of a model and its adapters: copies, since a model's own may be the file that it is in."""

    config: ModelConfig
    state: dict[str, Tensor]
    adapters: list[dict[str, tuple[Tensor, Tensor]]]


def slice_of(model: CodeModel, adapters: Sequence[LowRank], dtype: torch.dtype, rank: int = 0, size: int = 1) -> Slice:
    """The part of process `rank` of `size`. Both heads and inner width are multiples of `size`."""
    config = model.config

    def own(held: Tensor) -> Tensor:
        return held.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)

    def outputs(name: str, held: Tensor) -> Tensor:
        layer = name.rpartition(".")[0]
        if size == 1 or not layer.endswith(CUT_OUTPUTS):
            return held
        if layer.endswith("wte"):  # the last part is filled up with rows that no id names
            rows = -(-len(held) // size)
            part = held[rank * rows : (rank + 1) * rows]
            return F.pad(part, (0, 0, 0, rows - len(part)))
        if layer.endswith("c_attn"):
            queries, shared = held.split((config.hidden, 2 * config.head_dim))
            return torch.cat([queries.chunk(size)[rank], shared])
        return held.chunk(size)[rank]

    def inputs(name: str, held: Tensor) -> Tensor:
        layer, _, kind = name.rpartition(".")
        cut = size > 1 and kind == "weight" and layer.endswith(CUT_INPUTS)
        return held.chunk(size, dim=1)[rank] if cut else held

    state = {name: own(inputs(name, outputs(name, held))) for name, held in model.named_parameters()}
    changes = [
        {name: (own(inputs(name, down)), own(outputs(name, up))) for name, (down, up) in one.items()}
        for one in adapters
    ]
    return Slice(config, state, changes)


class _Linear:
    """A layer [outputs, inputs] with what adapters add to it; where its inputs are cut, the results are summed."""

    def __init__(self, held: Slice, name: str, group: TensorGroup) -> None:
        self._weight, self._bias = held.state[f"{name}.weight"], held.state[f"{name}.bias"]
        self._changes = [one.get(f"{name}.weight") for one in held.adapters]
        self._group, self._summed = group, group.size > 1 and name.endswith(CUT_INPUTS)

    def __call__(self, x: Tensor, spans: Spans) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        y = F.linear(x, self._weight, None if self._summed else self._bias)
        for rows, adapter in spans:
            change = self._changes[adapter]
            if change is not None:
                y[rows] += x[rows] @ change[0].T @ change[1].T
        return self._group.summed(y) + self._bias if self._summed else y


class SlicedModel:
    """The forward pass but for attention, which is whoever's that keeps the cache."""

    def __init__(self, held: Slice, group: TensorGroup, device: torch.device) -> None:
        state = {name: weight.to(device) for name, weight in held.state.items()}
        adapters = [{n: (down.to(device), up.to(device)) for n, (down, up) in one.items()} for one in held.adapters]
        held = Slice(held.config, state, adapters)
        self.config, self.heads = held.config, held.config.heads // group.size
        self._group, self._state = group, state
        self._embedding = state["transformer.wte.weight"]
        self._first = group.rank * len(self._embedding)
        self._layers = [
            tuple(_Linear(held, f"transformer.h.{number}.{name}", group) for name in MATRICES)
            for number in range(held.config.layers)
        ]

    def states(self, ids: Tensor, positions: Tensor, attend: Attend, spans: Spans = ()) -> Tensor:
        """[rows, hidden] before the last norm, of ids and their positions, int64 [rows]."""
        width, dim = self.heads * self.config.head_dim, self.config.head_dim
        x = self._embedded(ids) + self._state["transformer.wpe.weight"][positions]
        for number, (fused, mix, widen, narrow) in enumerate(self._layers):
            name = f"transformer.h.{number}"
            query, key, value = fused(self._normed(f"{name}.ln_1", x), spans).split((width, dim, dim), dim=1)
            x = x + mix(attend(number, query, key, value), spans)
            wide = F.gelu(widen(self._normed(f"{name}.ln_2", x), spans), approximate=self.config.gelu_form)
            x = x + narrow(wide, spans)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """fp32 [rows, vocabulary], the same in every process."""
        own = F.linear(self._normed("transformer.ln_f", states), self._embedding).float()
        return self._group.joined(own)[:, : self.config.vocabulary]

    def _normed(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.config.norm_epsilon)

    def _embedded(self, ids: Tensor) -> Tensor:
        if self._group.size == 1:
            return self._embedding[ids]
        local = ids - self._first
        outside = (local < 0) | (local >= len(self._embedding))
        return self._group.summed(self._embedding[local.masked_fill(outside, 0)].masked_fill(outside[:, None], 0.0))
