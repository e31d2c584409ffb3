"""The learning rate as a pure function of the step, and what is odd about a run's length."""

import math
from collections.abc import Iterator

from train_jobs.config import OptimizerConfig

MOST_EPOCHS = 8  # beyond four, repeated data teach ever less (Muennighoff et al. 2023)
FEWEST_STEPS = 10


def learning_rate(optimizer: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of update `step` (from 0): linear warm-up, perhaps a plateau, then down to the final rate."""
    if step < optimizer.warmup_steps:
        return optimizer.rate * (step + 1) / optimizer.warmup_steps
    first = max(optimizer.warmup_steps, optimizer.decay_from * steps)
    progress = min(1.0, max(0.0, step - first) / max(1, steps - first))
    scale = 1 - progress if optimizer.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return optimizer.final_rate + (optimizer.rate - optimizer.final_rate) * scale


def oddities(optimizer: OptimizerConfig, steps: int, epochs: float) -> Iterator[str]:
    """What somebody who set these numbers may not have meant, a line each."""
    if optimizer.warmup_steps >= steps:
        yield (
            f"warning: optimizer.warmup_steps = {optimizer.warmup_steps:,} and the run has {steps:,} steps: the rate "
            f"ends at {learning_rate(optimizer, steps - 1, steps):.2g} and never reaches {optimizer.rate:.2g}"
        )
    if steps < FEWEST_STEPS:
        yield f"warning: {steps:,} updates in all; lower global_batch for more of them, or train for longer"
    if epochs > MOST_EPOCHS:
        yield f"warning: each token is seen {epochs:.1f} times, which teaches by heart; take fewer steps or more data"
