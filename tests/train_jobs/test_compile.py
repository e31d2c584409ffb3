"""A compiled block computes what the block computes, at the shapes of whole samples and of cut ones."""

import pytest
import torch

from starloom.config import validate
from starloom.errors import UserError
from starloom.model.config import ModelConfig
from train_jobs.config import PretrainConfig
from train_jobs.parallel.layers import ParallelBlock, TensorSlice

ALONE = TensorSlice(0, 1, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # the compiler's own
def test_a_compiled_block_gives_the_same_numbers() -> None:
    config = ModelConfig(layers=2, hidden=64, heads=4, vocabulary=256, context=32)
    eager, compiled = (ParallelBlock(config, ALONE, 0, "block", compiled=on) for on in (False, True))
    torch.manual_seed(0)
    for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.nn.init.normal_(one, std=0.1)
        other.data.copy_(one.data)
    for shape in ((2, 32, 64), (8, 8, 64)):
        outs = []
        for block in (eager, compiled):
            x = torch.linspace(-1, 1, 2 * 32 * 64).reshape(shape).requires_grad_()
            y = block(x)
            y.square().sum().backward()
            outs.append((y.detach(), x.grad))
        for got, expected in zip(outs[1], outs[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layout": {"tensor": 2}}, "layout.tensor = 1"),
        ({"recompute": "selective"}, "recompute"),
        ({"model": {"dropout": 0.1}}, "model.dropout = 0"),
    ],
)
def test_what_cannot_be_compiled_is_told(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        validate(PretrainConfig, {"compile": True, **settings}, where="step")
