"""The DeepSpeed JSON as a pure function of our config; nobody writes it by hand."""

from typing import Any

from train_jobs.config import PretrainConfig
from train_jobs.planning.forecast import BUCKET
from train_jobs.planning.traffic import LIVE


def adam_options(config: PretrainConfig) -> dict[str, Any]:
    """What every AdamW is told."""
    optimizer = config.optimizer
    return {
        "lr": optimizer.rate,
        "betas": (optimizer.beta1, optimizer.beta2),
        "eps": optimizer.epsilon,
        "weight_decay": optimizer.weight_decay,
    }


def deepspeed_settings(config: PretrainConfig) -> dict[str, Any]:
    """Settings for `deepspeed.initialize`; accumulation follows from the batch and the layout."""
    optimizer = config.optimizer
    accumulation = config.global_batch // (config.layout.data * config.micro_batch)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip,
        "steps_per_print": 1 << 30,  # our own line per window takes its place
        "zero_optimization": {
            "stage": config.zero,
            "reduce_bucket_size": BUCKET,
            # while the next gradients are made; a CPU has no streams
            "overlap_comm": config.zero >= 2 and config.use_gpu,
            **({"stage3_max_live_parameters": LIVE, "stage3_max_reuse_distance": LIVE} if config.zero == 3 else {}),
        },
        "zero_allow_untested_optimizer": True,  # ours, which is tested with each stage that it is allowed with
    }
    if config.sequence_parallel:  # tensor ranks hold different states: none can be sent for the others
        settings["pipeline"] = {"pipe_partitioned": False, "grad_partitioned": False}
    if config.offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        # DeepSpeed's own for the CPU updates where the state is
        settings["optimizer"] = {"type": "AdamW", "params": adam_options(config)}
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        if config.zero == 1:  # what was added up in fp32 is summed over the ranks in it too; DeepSpeed rounds it first
            settings["communication_data_type"] = "fp32"
    return settings
