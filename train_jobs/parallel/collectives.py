"""The conjugate operators of tensor parallelism (Shoeybi et al. 2019, figure 3), and of sequence parallelism beside it.

With the latter, states between the regions are cut along the sequence (Korthikanti et al. 2022, figure 5).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = Any  # a process group, or None for a group of one


class _Copy(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Reduce(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Gather(torch.autograd.Function):
    """All-gather along the sequence forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _scattered(gradients[0], ctx.group), None


class _Scatter(torch.autograd.Function):
    """Reduce-scatter along the sequence forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _scattered(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradients[0], ctx.group), None


def _gathered(x: Tensor, group: Group) -> Tensor:
    """[batch, part, width] of each rank to [batch, sequence, width]."""
    ranks = dist.get_world_size(group)
    parts = x.new_empty((ranks * x.shape[0], *x.shape[1:]))
    dist.all_gather_into_tensor(parts, x.contiguous(), group=group)
    return parts.view(ranks, *x.shape).transpose(0, 1).reshape(x.shape[0], ranks * x.shape[1], x.shape[2])


def _scattered(x: Tensor, group: Group) -> Tensor:
    """The sum over the ranks of [batch, sequence, width], of which this one gets [batch, part, width]."""
    ranks = dist.get_world_size(group)
    part = x.shape[1] // ranks
    parts = x.reshape(x.shape[0], ranks, part, x.shape[2]).transpose(0, 1).contiguous()
    own = torch.empty_like(parts[0])
    dist.reduce_scatter_tensor(own, parts.flatten(0, 1), group=group)
    return own


def copy_to_group(x: Tensor, group: Group) -> Tensor:
    """Enter a tensor-parallel region with [..., width]: gradients from all ranks are summed on the way back."""
    return x if group is None else _Copy.apply(x, group)  # type: ignore[no-untyped-call]


def reduce_from_group(x: Tensor, group: Group) -> Tensor:
    """Leave a tensor-parallel region: the ranks' partial results, [..., width] each, are summed."""
    return x if group is None else _Reduce.apply(x, group)  # type: ignore[no-untyped-call]


def gather_from_sequence(x: Tensor, group: Group) -> Tensor:
    """Enter a tensor-parallel region from [batch, part, width]: every rank gets [batch, sequence, width]."""
    return x if group is None else _Gather.apply(x, group)  # type: ignore[no-untyped-call]


def scatter_to_sequence(x: Tensor, group: Group) -> Tensor:
    """Leave it: the partial results [batch, sequence, width] are summed, and each rank keeps [batch, part, width]."""
    return x if group is None else _Scatter.apply(x, group)  # type: ignore[no-untyped-call]
