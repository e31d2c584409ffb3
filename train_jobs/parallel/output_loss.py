"""The output layer and its cross-entropy in one operator, over a vocabulary cut along the tensor axis.

Logits are the largest tensor of a small model's step. They are made for some rows at a time, turned into their own
gradient in place and spent at once, so that they never leave the cache and are never kept for the backward pass (the
idea of Liger Kernel's fused linear cross-entropy; Hsu et al. 2024), with the maxima, sums and targets of the ranks
joined row by row as in Megatron-LM's vocabulary-parallel loss (Shoeybi et al. 2019).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from train_jobs.layout import ROWS
from train_jobs.parallel.collectives import Group

# of fp32 logits: what a CPU's cache keeps; what keeps a GPU's multiprocessors busy
CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}


def output_loss(
    x: Tensor, weight: Tensor, targets: Tensor, shares: Tensor, *, first: int, real: int, group: Group
) -> Tensor:
    """Cross-entropy in nats of [..., hidden] states under the output weight [width, hidden] of this rank.

    `shares` are what each target counts in the sum; equal ones that add up to 1 give the mean. `first` is the weight's
    first id, `real` the number of ids that exist: the padding after them takes no part.
    """
    rows = x.reshape(-1, x.shape[-1])
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    result: Tensor = _OutputLoss.apply(
        rows, weight, targets.reshape(-1), shares.reshape(-1), first, real, group, wanted
    )  # type: ignore[no-untyped-call]
    return result


class _OutputLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        shares: Tensor,
        first: int,
        real: int,
        group: Group,
        wanted: bool,
    ) -> Tensor:
        count, width = x.shape[0], weight.shape[0]
        exists = max(0, min(width, real - first))
        # whole tiles of a GPU's products
        step = max(ROWS, CHUNK_BYTES[x.device.type] // (4 * width) // ROWS * ROWS)
        d_x = torch.empty_like(x) if wanted else None
        # a frozen model's adapters want the gradient of the states alone
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted and weight.requires_grad else None
        total_loss = torch.zeros((), dtype=torch.float32, device=x.device)
        for start in range(0, count, step):
            part = x[start : start + step]
            local = targets[start : start + step] - first
            inside = (local >= 0) & (local < width)
            index = local.clamp(0, width - 1).unsqueeze(-1)
            z = (part @ weight.t()).float()
            if exists < width:
                z[:, exists:] = float("-inf")
            top = _joined(z.amax(dim=-1), dist.ReduceOp.MAX, group)
            z.sub_(top.unsqueeze(-1))
            chosen = _joined(z.gather(-1, index).squeeze(-1).masked_fill(~inside, 0.0), dist.ReduceOp.SUM, group)
            z.exp_()
            total = _joined(z.sum(dim=-1), dist.ReduceOp.SUM, group)
            share = shares[start : start + step]
            total_loss += (share * (total.log() - chosen)).sum()
            if d_x is None:
                continue
            z.mul_((share / total).unsqueeze(-1))
            z.scatter_add_(-1, index, torch.where(inside, -share, 0.0).unsqueeze(-1).to(z.dtype))
            gradient = z.to(x.dtype)
            torch.matmul(gradient, weight, out=d_x[start : start + step])
            if d_weight is None:
                continue
            if weight.dtype == torch.float32:
                d_weight.addmm_(gradient.t(), part)
            else:
                d_weight += gradient.t() @ part
        if wanted:
            ctx.save_for_backward(d_x, d_weight)
            ctx.weight_dtype = weight.dtype
        return total_loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_x, d_weight = ctx.saved_tensors
        scale = gradients[0]
        of_weight = None if d_weight is None else (d_weight * scale).to(ctx.weight_dtype)
        return d_x * scale, of_weight, None, None, None, None, None, None


def _joined(value: Tensor, operation: Any, group: Group) -> Tensor:
    if group is not None:
        dist.all_reduce(value, op=operation, group=group)
    return value
