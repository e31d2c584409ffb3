"""The same layers without a pipeline, for ZeRO-2 and -3, which DeepSpeed's pipeline engine does not allow."""

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn

from starloom.model.attention import Backend
from starloom.model.config import ModelConfig
from train_jobs.config import LoraConfig
from train_jobs.layout import Layout, Recompute
from train_jobs.parallel.layers import (
    MicroBatch,
    Norm,
    Output,
    ParallelBlock,
    PositionEmbedding,
    TensorSlice,
    TokenEmbedding,
)

Batch = tuple[Tensor, tuple[Tensor, Tensor]]  # tokens, (targets, what each target counts)


class StagelessModel(nn.Module):
    """The whole model of one tensor rank; its parameters have the pipeline's logical names."""

    def __init__(
        self,
        config: ModelConfig,
        place: TensorSlice,
        recompute: Recompute,
        backend: Backend,
        source: MicroBatch,
        lora: LoraConfig | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(config, place)
        self.positions = PositionEmbedding(config, place, source)
        self.blocks = nn.ModuleList(
            ParallelBlock(config, place, number, recompute, backend, source, lora, compiled=compiled)
            for number in range(config.layers)
        )
        self.norm = Norm(config, place, "transformer.ln_f")
        self._output = Output(config)
        # its weight is used a second time outside of the embedding, where ZeRO-3 would not look for it
        deepspeed.zero.register_external_parameter(self, self.embedding.weight)

    def forward(self, tokens: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy, nats, of [batch, sequence] tokens; labels are targets and what each counts."""
        x = self.positions(self.embedding(tokens))
        for block in self.blocks:
            x = block(x)
        self._output.take(labels)
        return self._output.loss(self.embedding, self.norm(x))


class StagelessEngine:
    """DeepSpeed's engine around a `StagelessModel`, with the pipeline engine's way of taking whole batches."""

    def __init__(self, engine: Any, data_group: Any, source: MicroBatch) -> None:
        self.inner, self._group, self._source = engine, data_group, source
        self.module, self.optimizer, self.device = engine.module, engine.optimizer, engine.device
        self.losses: list[Tensor] = []  # of the step's micro batches so far

    def train_batch(self, data_iter: Iterator[Batch]) -> Tensor:
        """One update from as many micro batches as the accumulation says; the global batch's mean loss, a scalar."""
        self.module.train()
        self.losses.clear()
        for _ in range(self.inner.gradient_accumulation_steps()):
            loss = self._loss(next(data_iter))
            self.losses.append(loss.detach())
            self.inner.backward(loss)
            self.inner.step()
        return self._mean(self.losses)

    def eval_batch(self, data_iter: Iterator[Batch]) -> Tensor:
        """The mean loss of a global batch, a scalar."""
        self.module.eval()
        with torch.no_grad():
            losses = [self._loss(next(data_iter)) for _ in range(self.inner.gradient_accumulation_steps())]
        return self._mean(losses)

    def train(self) -> None:
        """Back to training."""
        self.module.train()

    def get_global_grad_norm(self) -> float:
        """The norm of the last update's gradient over all axes, before clipping."""
        return float(self.inner.get_global_grad_norm())

    def _loss(self, batch: Batch) -> Tensor:
        tokens, (targets, shares) = batch
        self._source.advance()
        loss: Tensor = self.inner(tokens.to(self.device), (targets.to(self.device), shares.to(self.device)))
        return loss

    def _mean(self, losses: list[Tensor]) -> Tensor:
        mean = torch.stack(losses).mean()
        if self._group is not None:
            dist.all_reduce(mean, group=self._group)
            mean /= dist.get_world_size(self._group)
        return mean


class Axes:
    """What DeepSpeed asks of a model-parallel unit: the groups of the tensor axis and of the data axis."""

    def __init__(self, topology: PipeModelDataParallelTopology, layout: Layout) -> None:
        self._tensor = _own_group(topology.get_axis_comm_lists("model") or [[n] for n in range(layout.ranks)])
        self._data = _own_group(topology.get_axis_comm_lists("data") or [[n] for n in range(layout.ranks)])

    def get_model_parallel_group(self) -> Any:
        """The tensor axis."""
        return self._tensor

    def get_model_parallel_rank(self) -> int:
        """This process on the tensor axis."""
        return dist.get_rank(self._tensor)

    def get_model_parallel_world_size(self) -> int:
        """Tensor ranks."""
        return dist.get_world_size(self._tensor)

    def get_data_parallel_group(self) -> Any:
        """The data axis."""
        return self._data

    def get_data_parallel_rank(self) -> int:
        """This process on the data axis."""
        return dist.get_rank(self._data)

    def get_data_parallel_world_size(self) -> int:
        """Data ranks."""
        return dist.get_world_size(self._data)


def _own_group(lists: list[list[int]]) -> Any:
    """The group of this process; a collective call: every process makes every group."""
    groups = [(ranks, dist.new_group(ranks)) for ranks in lists]
    return next(group for ranks, group in groups if dist.get_rank() in ranks)
