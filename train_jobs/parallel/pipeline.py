"""The model as DeepSpeed's PipelineModule, and its weights as logical tensors."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from starloom.model.attention import Backend
from starloom.model.config import ModelConfig
from train_jobs.layout import Layout, Recompute
from train_jobs.parallel.layers import Norm, Output, ParallelBlock, PositionEmbedding, TensorSlice, TokenEmbedding


def build_pipeline(
    config: ModelConfig, layout: Layout, recompute: Recompute = "none", backend: Backend = "sdpa"
) -> PipelineModule:
    """This process's stage; weights are empty until `fill` is called."""
    topology = PipeModelDataParallelTopology(num_pp=layout.pipeline, num_mp=layout.tensor, num_dp=layout.data)
    place = tensor_slice(topology, layout)

    output = Output(config)
    layers: list[Any] = [
        TiedLayerSpec("embedding", TokenEmbedding, config, place, tied_weight_attr="weight"),
        LayerSpec(PositionEmbedding, config, place),
        *(LayerSpec(ParallelBlock, config, place, number, recompute, backend) for number in range(config.layers)),
        LayerSpec(Norm, config, place, "transformer.ln_f"),
        TiedLayerSpec("embedding", TokenEmbedding, config, place, forward_fn=output.enter, tied_weight_attr="weight"),
    ]
    return PipelineModule(
        layers=layers,
        topology=topology,
        loss_fn=output.loss,
        partition_method="type:ParallelBlock",
        activation_checkpoint_interval=0,  # blocks recompute by themselves
    )


def tensor_slice(topology: PipeModelDataParallelTopology, layout: Layout) -> TensorSlice:
    """This process's place on the tensor axis; a collective call: every process makes every group."""
    mine = TensorSlice(0, 1, None)
    if layout.tensor == 1:
        return mine
    for ranks in topology.get_axis_comm_lists("model"):
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = TensorSlice(ranks.index(dist.get_rank()), layout.tensor, group)
    return mine


def own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(logical name, parameter) of this process, each tied weight once."""
    seen = set()
    for held in module.parameters():
        if id(held) not in seen:
            seen.add(id(held))
            yield held.logical, held  # type: ignore[attr-defined]


def cut(logical: Tensor, held: nn.Parameter, rank: int, size: int) -> Tensor:
    """This rank's part of a logical tensor, padded along the vocabulary where that does not divide."""
    axis = held.cut  # type: ignore[attr-defined]
    if axis is None or size == 1:
        return logical
    width = getattr(held, "ds_shape", held.shape)[axis]  # ZeRO-3 holds a piece and remembers the shape
    total = width * size
    if logical.shape[axis] < total:
        padding = list(logical.shape)
        padding[axis] = total - logical.shape[axis]
        logical = torch.cat([logical, torch.zeros(padding, dtype=logical.dtype)], dim=axis)
    return logical.narrow(axis, rank * width, width)


def fill(module: nn.Module, state: dict[str, Tensor], place_rank: int, size: int) -> None:
    """Copy logical weights into this process's parameters."""
    for name, held in own_parameters(module):
        held.data.copy_(cut(state[name], held, place_rank, size))


def to_logical(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """transformers' names to ours: the fused attention projection becomes q and kv."""
    out = {}
    for name, tensor in state.items():
        if ".attn.c_attn." in name:
            q, kv = tensor.split((config.hidden, 2 * config.head_dim), dim=0)
            out[name.replace("c_attn", "q")], out[name.replace("c_attn", "kv")] = q, kv
        else:
            out[name] = tensor
    return out


def from_logical(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours to transformers' names."""
    out = {}
    for name, tensor in state.items():
        if ".attn.q." in name:
            joined = torch.cat([tensor, state[name.replace(".q.", ".kv.")]], dim=0)
            out[name.replace(".attn.q.", ".attn.c_attn.")] = joined
        elif ".attn.kv." not in name:
            out[name] = tensor
    return out
