"""The learning rate as a pure function of the step."""

import math

from train_jobs.config import OptimizerConfig


def learning_rate(optimizer: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of update `step` (from 0): linear warm-up, then half a cosine down to the final rate."""
    if step < optimizer.warmup_steps:
        return optimizer.rate * (step + 1) / optimizer.warmup_steps
    progress = (step - optimizer.warmup_steps) / max(1, steps - optimizer.warmup_steps)
    scale = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return optimizer.final_rate + (optimizer.rate - optimizer.final_rate) * scale
