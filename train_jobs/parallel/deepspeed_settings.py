"""The DeepSpeed JSON as a pure function of our config; nobody writes it by hand."""

from typing import Any

from train_jobs.config import PretrainConfig
from train_jobs.planning.forecast import BUCKET


def deepspeed_settings(config: PretrainConfig) -> dict[str, Any]:
    """Settings for `deepspeed.initialize`; accumulation follows from the batch and the layout."""
    optimizer = config.optimizer
    accumulation = config.global_batch // (config.layout.data * config.micro_batch)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip,
        "steps_per_print": 1 << 30,  # our own line per window takes its place
        "zero_optimization": {"stage": config.zero, "reduce_bucket_size": BUCKET},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "torch_adam": True,
                "lr": optimizer.rate,
                "betas": [optimizer.beta1, optimizer.beta2],
                "eps": optimizer.epsilon,
                "weight_decay": optimizer.weight_decay,
            },
        },
    }
    if config.offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        del settings["optimizer"]["params"]["torch_adam"]  # DeepSpeed's own for the CPU updates where the state is
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
