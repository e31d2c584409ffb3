"""No collective call gets a tensor of the node's memory: NCCL knows none, and gloo, which tests speak, takes them all.

On a CPU both memories are one. So what our code makes there on purpose is marked: what it moves to "cpu" by name, and
what it makes without saying where. A marked tensor that comes to a collective call ends the process.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.tokens import TokenShardWriter
from tests.train_jobs import gloo
from train_jobs.config import PretrainConfig, ShapeConfig
from train_jobs.layout import Layout

pytestmark = pytest.mark.slow

TEXT = "def add(a, b):\n    return a + b\n\n\nclass Point:\n    pass\n"
FACTORIES = {"empty", "zeros", "ones", "full", "tensor", "as_tensor", "from_numpy", "arange", "rand", "randn"}
COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "reduce", "reduce_scatter", "all_gather_into_tensor", "send")


def _watch_collectives() -> list[str]:
    """Mark tensors of the node's memory from here on; the list gets the calls that were seen."""
    import torch
    import torch.distributed as dist
    from torch.overrides import TorchFunctionMode
    from torch.utils.weak import WeakIdKeyDictionary

    hosts = WeakIdKeyDictionary()
    calls: list[str] = []

    def tensors(values: Any) -> list[Any]:
        if isinstance(values, torch.Tensor):
            return [values]
        if isinstance(values, (list, tuple)):
            return [tensor for value in values for tensor in tensors(value)]
        return []

    def ours() -> bool:
        return "train_jobs" in Path(sys._getframe(2).f_code.co_filename).parts

    class Marks(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = kwargs or {}
            made = func(*args, **options)
            name = getattr(func, "__name__", "")
            named = [value for value in (*args[1:], options.get("device")) if value is not None]
            to_host = name == "cpu" or (name == "to" and "cpu" in [value for value in named if isinstance(value, str)])
            if to_host and ours():  # DeepSpeed calls its device by name
                host = True
            elif name == "to" and any(isinstance(value, torch.device) for value in named):
                host = False
            elif name in FACTORIES:
                host = options.get("device") is None and ours()
            else:
                host = any(tensor in hosts for tensor in tensors(args))
            if host and not name.endswith("_"):  # what is written in place stays where it is
                for tensor in tensors(made):
                    hosts[tensor] = True
            return made

    def guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if any(tensor in hosts for tensor in tensors([*args, *options.values()])):
                raise AssertionError(f"{name} got a tensor of the node's memory")
            return call(*args, **options)

        return checked

    for name in COLLECTIVES:
        setattr(dist, name, guarded(name, getattr(dist, name)))
    Marks().__enter__()
    return calls


def _train(rank: int, data: str, output: str, layout: tuple[int, int, int], zero: int, precision: str) -> None:
    from train_jobs.job import Job
    from train_jobs.loop.batches import open_data
    from train_jobs.loop.engine import build_engine, heldout_loss, restore, train_step
    from train_jobs.loop.guard import LossGuard
    from train_jobs.loop.saver import Saver

    pipeline, tensor, ranks = layout
    config = PretrainConfig(
        model=ShapeConfig(layers=2, hidden=32, heads=4, context=32, dropout=0.1),
        steps=4,
        global_batch=4,
        micro_batch=2,
        layout=Layout(pipeline=pipeline, tensor=tensor, data=ranks),
        zero=zero,
        precision=precision,
    )
    job = Job(config, (f"{data}/train",), (), "uint16", 301, f"{data}/tokenizer.json", output)
    engine, place = build_engine(job)  # parameters are made before DeepSpeed moves them
    calls = _watch_collectives()
    samples, _ = open_data(job)
    guard = LossGuard(job, engine, 0)
    assert guard.check(1, train_step(job, engine, place, samples, 0))
    heldout_loss(job, engine, place, samples)
    saver = Saver(job, Path(output) / "checkpoints", place)
    saver.save(engine, 1, 1, None)
    saver.wait()
    assert restore(job, engine, place) == 1
    assert calls


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("layout", "zero", "precision"),
    [((1, 2, 1), 0, "fp32"), ((1, 2, 1), 1, "bf16"), ((2, 1, 1), 1, "bf16"), ((1, 2, 1), 3, "bf16")],
)
def test_collective_calls_work_on_the_device(
    tmp_path: Path, layout: tuple[int, int, int], zero: int, precision: str
) -> None:
    tokenizer = train_bpe(iter([TEXT] * 20), 301)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json_text)
    ids = np.array([*tokenizer.encode(TEXT * 60), 0], dtype="uint16")
    TokenShardWriter("uint16").write(ArtifactWriter(str(tmp_path)), "train", [ids])
    gloo.run(2, _train, str(tmp_path), str(tmp_path / "run"), layout, zero, precision)
