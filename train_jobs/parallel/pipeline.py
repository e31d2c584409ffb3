"""The model as DeepSpeed's PipelineModule, and its weights as logical tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from starloom.model.attention import Backend
from starloom.model.config import ModelConfig
from starloom.model.model import initial_shapes
from train_jobs.config import LoraConfig
from train_jobs.layout import Layout, Recompute
from train_jobs.parallel.deepspeed_internals import set_whole
from train_jobs.parallel.layers import (
    MicroBatch,
    Norm,
    Output,
    ParallelBlock,
    PositionEmbedding,
    TensorSlice,
    TokenEmbedding,
)
from train_jobs.parallel.weights import Source, is_low_rank, own_part


def build_pipeline(
    config: ModelConfig,
    layout: Layout,
    recompute: Recompute,
    backend: Backend,
    source: MicroBatch,
    lora: LoraConfig | None = None,
    compiled: bool = False,
    sequence: bool = False,
) -> tuple[PipelineModule, Output]:
    """This process's stage, whose weights are empty until `fill` is called, and the end, which wants the labels."""
    topology = PipeModelDataParallelTopology(num_pp=layout.pipeline, num_mp=layout.tensor, num_dp=layout.data)
    place = tensor_slice(topology, layout, sequence=sequence)

    output = Output(config)
    layers: list[Any] = [
        TiedLayerSpec("embedding", TokenEmbedding, config, place, tied_weight_attr="weight"),
        LayerSpec(PositionEmbedding, config, place, source),
        *(
            LayerSpec(ParallelBlock, config, place, number, recompute, backend, source, lora, compiled=compiled)
            for number in range(config.layers)
        ),
        LayerSpec(Norm, config, place, "transformer.ln_f"),
        TiedLayerSpec("embedding", TokenEmbedding, config, place, forward_fn=output.loss, tied_weight_attr="weight"),
    ]
    stage = PipelineModule(
        layers=layers,
        topology=topology,
        partition_method="type:ParallelBlock",
        activation_checkpoint_interval=0,  # blocks recompute by themselves
    )
    return stage, output


def tensor_slice(topology: PipeModelDataParallelTopology, layout: Layout, *, sequence: bool = False) -> TensorSlice:
    """This process's place on the tensor axis; a collective call: every process makes every group."""
    mine = TensorSlice(0, 1, None)
    if layout.tensor == 1:
        return mine
    for ranks in topology.get_axis_comm_lists("model"):
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = TensorSlice(ranks.index(dist.get_rank()), layout.tensor, group, sequence)
    return mine


def own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(logical name, parameter) of this process, each tied weight once."""
    seen = set()
    for held in module.parameters():
        if id(held) not in seen:
            seen.add(id(held))
            yield held.logical, held  # type: ignore[attr-defined]


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Those of `own_parameters` that training changes."""
    return ((name, held) for name, held in own_parameters(module) if held.requires_grad)


def freeze(module: nn.Module) -> None:
    """Leave everything as it is but adapters."""
    for name, held in own_parameters(module):
        held.requires_grad = is_low_rank(name)


def fill(module: nn.Module, source: Source, place: TensorSlice) -> None:
    """Copy this process's parts of logical weights into its parameters."""
    for name, held in own_parameters(module):
        set_whole(held, own_part(source, name, held, place.rank, place.size))


class Exported(Mapping[str, Tensor]):
    """A source's tensors under transformers' names, each made whole when it is asked for."""

    def __init__(self, source: Source, config: ModelConfig, suffix: str = "") -> None:
        self._source, self._suffix = source, suffix
        self._names = initial_shapes(config)

    def __getitem__(self, name: str) -> Tensor:
        if ".attn.c_attn." in name:
            ours = [name.replace(".attn.c_attn.", f".attn.{part}.") for part in ("q", "kv")]
            return torch.cat([self._whole(part) for part in ours])
        return self._whole(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _whole(self, name: str) -> Tensor:
        name += self._suffix
        return self._source.read(name, 0, 0, self._source.shape(name)[0])
