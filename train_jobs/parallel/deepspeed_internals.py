"""Every private part of DeepSpeed that we touch, in one file: what to look at when its version changes.

Written against 0.19; `pyproject.toml` bounds the version. What each function rests on is said at the function.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.pipe.schedule import ForwardPass
from deepspeed.runtime.zero import GatheredParameters
from torch import Tensor, nn

Instruction = Callable[..., Any]


def without_inference_collectives() -> None:
    """Leave out its all-reduce for inference, which training never calls.

    It would be compiled first, and leave 66 MB of shared memory behind for each process that ever ran.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def time_instructions(engine: Any, timed: Callable[[str, Instruction], Instruction]) -> None:
    """Put a function around each instruction of the pipeline's schedule; `timed` gets the instruction's class name."""
    engine._INSTRUCTION_MAP = {kind: timed(kind.__name__, method) for kind, method in engine._INSTRUCTION_MAP.items()}


def last_loss(engine: Any) -> float | None:
    """The pipeline engine's mean loss over the step's micro batches; None where a later stage has it."""
    if not engine.is_last_stage():
        return None
    return float(engine.total_loss) / int(engine.gradient_accumulation_steps())


@contextlib.contextmanager
def built(settings: Mapping[str, Any], axes: Any) -> Iterator[None]:
    """Build a module within this: its weights have the precision that training has, and with ZeRO-3 are cut at once.

    A model of 15 billion parameters in fp32 is 62 GB, which the 8 processes of a node cannot each hold.
    """
    dtype = torch.bfloat16 if settings.get("bf16") else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        if settings["zero_optimization"]["stage"] < 3:
            yield
        else:
            group = axes.get_data_parallel_group()
            with deepspeed.zero.Init(data_parallel_group=group, config_dict_or_path=dict(settings), dtype=dtype):
                yield
    finally:
        torch.set_default_dtype(before)


def set_whole(held: nn.Parameter, value: Tensor) -> None:
    """Set a parameter of the module, whole or cut by ZeRO-3, to a value of its own [shape]."""
    with GatheredParameters([held], modifier_rank=0, enabled=hasattr(held, "ds_id")):
        held.data.copy_(value)


def before_forward(engine: Any, advance: Callable[[], None], take: Callable[[Any], None]) -> None:
    """Call `advance` before each micro batch's forward pass, and `take` with its labels before the last stage's.

    The loss belongs to the forward pass.
    DeepSpeed's own way, a loss function outside of the stage, loses in bf16 what the loss gives to a weight of the
    stage itself: the gradients are cleared when the backward pass reaches the stage's output.
    """
    forward = engine._INSTRUCTION_MAP[ForwardPass]

    def prepared(engine: Any, buffer_id: int) -> Any:
        advance()
        if engine.is_last_stage():
            take(engine.pipe_buffers["labels"][buffer_id])
        return forward(engine, buffer_id)

    engine._INSTRUCTION_MAP = {**engine._INSTRUCTION_MAP, ForwardPass: prepared}


def data_group(engine: Any) -> Any:
    """The processes of the data axis, between which ZeRO cuts what it cuts."""
    return engine.seq_data_parallel_group


def forget_shapes(engine: Any) -> None:
    """Let the next batch have another shape: stages tell each other the shape of what they send once only."""
    if hasattr(engine, "reset_activation_shape"):
        engine.reset_activation_shape()


def mark_cut(parameter: nn.Parameter) -> None:
    """Say that a parameter is cut along the tensor axis: without the mark its norm is counted once only."""
    parameter.tensor_model_parallel = True  # type: ignore[attr-defined]


def is_copy_of_another_stage(parameter: nn.Parameter) -> bool:
    """Whether the pipeline engine holds this tied weight for a second time."""
    return bool(getattr(parameter, "ds_pipe_replicated", False))


def replace_clipping(engine: Any, clip: Callable[[], float]) -> None:
    """Clip by `clip`, which returns the norm before clipping, where no ZeRO stage does it.

    DeepSpeed's own function counts the tied embedding on the first stage and on the last one, and keeps no norm.
    """

    def clip_and_tell() -> None:
        engine._global_grad_norm = clip()

    engine.clip_fp32_gradients = clip_and_tell


def refuse_updates(engine: Any, refuses: Callable[[], bool]) -> None:
    """Make the optimizer of any ZeRO stage ask `refuses` first, and drop the gradients when it says yes.

    It does so too when their norm is not finite; `left_out` tells it afterwards.
    """
    optimizer = engine.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        update = optimizer.step

        def step(*arguments: Any, **options: Any) -> Any:
            optimizer.overflow = refuses() or not math.isfinite(engine.get_global_grad_norm())  # type: ignore[attr-defined]
            return None if optimizer.overflow else update(*arguments, **options)  # type: ignore[attr-defined]

        optimizer.step = step  # type: ignore[method-assign]
    elif isinstance(optimizer, BF16_Optimizer):  # of ZeRO-1 in bf16
        update = optimizer.step

        def step_in_bf16(*arguments: Any, **options: Any) -> Any:
            if not refuses():
                return update(*arguments, **options)
            optimizer.overflow = True
            optimizer.clear_hp_grads()
            return optimizer.clear_lp_grads()

        optimizer.step = step_in_bf16
    elif hasattr(optimizer, "_loss_scale_update_and_overflow_cleanup"):  # ZeRO-3

        def check(update_scale: bool = True) -> bool:
            optimizer.overflow = refuses()
            return bool(optimizer._loss_scale_update_and_overflow_cleanup())

        optimizer._overflow_check_and_loss_scale_update = check
    else:  # ZeRO-1 and -2: the way on which fp16 leaves out an update

        def check_overflow(**options: Any) -> None:
            optimizer.overflow = refuses()

        optimizer.check_grad_overflow, optimizer.check_overflow = True, check_overflow


def left_out(optimizer: Any) -> bool:
    """Whether the optimizer's last step was none."""
    return bool(optimizer.overflow)


def cuts_parameters(optimizer: Any) -> bool:
    """Whether it is ZeRO-3, which cuts the parameters themselves."""
    return hasattr(optimizer, "fp32_partitioned_groups_flat")


def flat_masters(optimizer: Any) -> list[Tensor]:
    """This data rank's flat fp32 pieces of the masters (each [elements]), one a parameter group, of ZeRO-1 to -3."""
    if isinstance(optimizer, BF16_Optimizer):
        return list(optimizer.fp32_groups_flat_partition)
    pieces = optimizer.fp32_partitioned_groups_flat if cuts_parameters(optimizer) else None
    return list(pieces or optimizer.single_partition_of_fp32_groups)


def set_state(optimizer: Any, flat: Tensor, state: dict[str, Tensor]) -> None:
    """Set Adam's state, [elements] or a scalar each, of a flat piece [elements]."""
    optimizer.optimizer.state[flat] = state


def link_moments(optimizer: Any) -> None:
    """Link each parameter to its moments again.

    DeepSpeed 0.19 does it once, after the first parameter group's first update, when the other groups have none.
    """
    if not cuts_parameters(optimizer):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()
