"""Gradient clipping where no ZeRO stage does it: each parameter counts once, whichever ranks hold copies of it."""

from typing import Any

import torch
import torch.distributed as dist

from train_jobs.parallel.deepspeed_internals import is_copy_of_another_stage
from train_jobs.parallel.layers import TensorSlice
from train_jobs.parallel.pipeline import own_parameters


def clip_gradients(engine: Any, place: TensorSlice) -> float:
    """Scale the gradients to at most the norm of the configuration; returns their norm over all axes before that."""
    held = [parameter for _, parameter in own_parameters(engine.module) if parameter.grad is not None]
    counted = [
        parameter
        for parameter in held
        if (parameter.cut is not None or place.rank == 0) and not is_copy_of_another_stage(parameter)  # type: ignore[attr-defined]
    ]
    squares = torch.zeros((), device=engine.device)
    for parameter in counted:
        assert parameter.grad is not None
        squares += parameter.grad.float().square().sum()
    # in DeepSpeed's grid the "model parallel" ranks are those of all stages and all tensor slices
    dist.all_reduce(squares, group=engine.mpu.get_model_parallel_group())
    norm = squares.sqrt()
    scale = 1 / torch.clamp((norm + 1e-6) / engine.gradient_clipping(), min=1.0)
    for parameter in held:
        assert parameter.grad is not None
        parameter.grad.mul_(scale)
    return float(norm)
