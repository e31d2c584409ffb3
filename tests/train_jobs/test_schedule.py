"""Learning rates by step: both ways down, with and without a plateau."""

import pytest

from train_jobs.config import OptimizerConfig
from train_jobs.loop.schedule import learning_rate

BASE = {"rate": 1.0, "final_rate": 0.1, "warmup_steps": 10}


def test_the_rate_rises_then_falls_by_half_a_cosine() -> None:
    optimizer = OptimizerConfig(**BASE)
    rates = [learning_rate(optimizer, step, 110) for step in (0, 4, 9, 10, 60, 109)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1], abs=2e-3)


def test_a_plateau_comes_before_a_line_down() -> None:
    optimizer = OptimizerConfig(**BASE, decay="linear", decay_from=0.5)
    rates = [learning_rate(optimizer, step, 100) for step in (10, 49, 50, 75, 99, 100)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.55, 0.118, 0.1], abs=1e-3)
