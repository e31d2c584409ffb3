"""The two conjugate operators of tensor parallelism (Shoeybi et al. 2019, figure 3)."""

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


def copy_to_group(x: Tensor, group: Group) -> Tensor:
    """Enter a tensor-parallel region with [..., width]: gradients from all ranks are summed on the way back."""
    return x if group is None else _Copy.apply(x, group)  # type: ignore[no-untyped-call]


def reduce_from_group(x: Tensor, group: Group) -> Tensor:
    """Leave a tensor-parallel region: the ranks' partial results, [..., width] each, are summed."""
    return x if group is None else _Reduce.apply(x, group)  # type: ignore[no-untyped-call]
