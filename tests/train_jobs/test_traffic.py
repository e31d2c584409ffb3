"""What the plan says that a rank sends is what its collectives carry: they are counted in real steps."""

import json
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
from train_jobs.planning.forecast import forecast
from train_jobs.planning.hardware import HARDWARE

pytestmark = pytest.mark.slow

VOCABULARY = 2048
# pipeline, tensor, data, zero, precision, recompute; sequence: along the tensor axis too
CASES = [
    (1, 2, 1, 1, "fp32", "none"), (1, 2, 1, 1, "fp32", "block"), (2, 1, 1, 1, "fp32", "none"),
    (1, 1, 2, 0, "fp32", "none"), (1, 1, 2, 1, "fp32", "none"), (1, 1, 2, 2, "fp32", "none"),
    (1, 1, 2, 3, "fp32", "none"), (1, 1, 2, 1, "bf16", "none"),
    (1, 2, 1, 1, "fp32", "sequence"), (2, 2, 1, 1, "fp32", "none"),
]  # fmt: skip


def config_of(case: tuple[Any, ...]) -> PretrainConfig:
    pipeline, tensor, data, zero, precision, recompute = case
    return PretrainConfig(
        # ZeRO-3 leaves tensors of less than 100,000 elements whole
        model=ShapeConfig(layers=4, hidden=512 if zero == 3 else 64, heads=4, context=64),
        sequence=64 if precision == "fp32" else 16,
        steps=20,
        global_batch=8,
        micro_batch=2,
        layout=Layout(pipeline=pipeline, tensor=tensor, data=data),
        zero=zero,
        precision=precision,
        recompute="none" if recompute == "sequence" else recompute,
        sequence_parallel=recompute == "sequence",
    )


class Counter:
    """Bytes that this process sends, as a ring carries them (Patarasuk and Yuan 2009)."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.sent = 0.0
        for name, cost in {
            "all_reduce": lambda n, tensor, *_: 2 * (n - 1) / n * size(tensor),
            "all_gather": lambda n, parts, own, *_: (n - 1) * size(own),
            "all_gather_into_tensor": lambda n, whole, own, *_: (n - 1) * size(own),
            "reduce_scatter_tensor": lambda n, own, whole, *_: (n - 1) * size(own),
            "reduce": lambda n, tensor, *_: (n - 1) / n * size(tensor),
            "broadcast": lambda n, tensor, *_: (n - 1) / n * size(tensor),
            "send": lambda n, tensor, *_: size(tensor),
            "isend": lambda n, tensor, *_: size(tensor),
        }.items():
            setattr(dist, name, self._counting(getattr(dist, name), cost))

    def _counting(self, function: Callable[..., Any], cost: Callable[..., float]) -> Callable[..., Any]:
        import torch.distributed as dist

        def counting(*arguments: Any, **options: Any) -> Any:
            ranks = dist.get_world_size(options.get("group"))
            self.sent += cost(ranks, *arguments, *options.values())
            return function(*arguments, **options)

        return counting


def size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _work(rank: int, data: str, output: str) -> None:
    counter = Counter()
    import torch.distributed as dist

    from train_jobs.job import Job
    from train_jobs.loop.batches import open_data
    from train_jobs.loop.engine import build_engine, train_step

    for number, case in enumerate(CASES):
        if config_of(case).layout.ranks != dist.get_world_size():
            continue
        job = Job(
            config_of(case),
            (f"{data}/train",),
            (),
            "uint16",
            VOCABULARY,
            f"{data}/tokenizer.json",
            f"{output}/{number}",
        )
        engine, place = build_engine(job)
        tokens, _ = open_data(job)
        train_step(job, engine, place, tokens, 0)  # the first one also says of what shapes its messages are
        counter.sent = 0.0
        train_step(job, engine, place, tokens, 1)
        (Path(output) / f"{number}-{rank}.json").write_text(json.dumps(counter.sent))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Bytes of the rank that sends most, by the case's number."""
    data, output = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("sent")
    (data / "tokenizer.json").write_text(train_bpe(iter(["def add(a, b): return a + b\n"] * 9), 280).json_text)
    documents = [np.random.default_rng(0).integers(300, VOCABULARY, 5000, dtype="uint16")]
    TokenShardWriter("uint16").write(ArtifactWriter(str(data)), "train", documents)
    for ranks in (2, 4):
        gloo.run(ranks, _work, str(data), str(output))
    return {
        number: max(json.loads(path.read_text()) for path in output.glob(f"{number}-*.json"))
        for number in range(len(CASES))
    }


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_a_step_sends_what_the_plan_says(sent: dict[int, float], number: int) -> None:
    config = config_of(CASES[number])
    traffic = forecast(config, config.shape(VOCABULARY), HARDWARE["a100-80g"], config.layout).traffic
    planned = traffic.tensor.sent + traffic.pipeline.sent + traffic.data.sent
    assert sent[number] == pytest.approx(planned, rel=0.03)
