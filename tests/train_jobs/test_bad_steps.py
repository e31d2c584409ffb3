"""A step that must not happen does not happen, in every engine: a loss that is no number, one that explodes, a gradient
that is no number while the loss is one."""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_jobs.train_tokenizer import train_bpe
from starloom.artifact import ArtifactWriter
from starloom.tokens import TokenShardWriter
from tests.pairs import covering
from tests.train_jobs import gloo
from train_jobs.config import OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.layout import Layout

pytestmark = pytest.mark.slow

TEXT = "def add(a, b):\n    return a + b\n\n\nclass Point:\n    pass\n"
ENGINES = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)]
LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
FAULTS = ("loss", "explosion", "gradient")
CASES = [
    (layout, precision, zero, fault)
    for layout, (precision, zero), fault in product(LAYOUTS, ENGINES, FAULTS)
    if zero < 2 or layout[0] == 1
]
CASES = covering(CASES, lambda case: dict(enumerate(case)))


def name_of(case: tuple[tuple[int, int, int], str, int, str]) -> str:
    layout, precision, zero, fault = case
    return f"{'x'.join(map(str, layout))}-{precision}-zero{zero}-{fault}"


def _work(rank: int, layout: tuple[int, int, int], data: str, output: str) -> None:
    for case in CASES:
        if case[0] == layout:
            found = _poisoned(case, data, Path(output) / name_of(case))
            if rank == 0:
                (Path(output) / f"{name_of(case)}.json").write_text(json.dumps(found))


def _poisoned(case: tuple[tuple[int, int, int], str, int, str], data: str, output: Path) -> dict[str, Any]:
    """Three steps of which the second is bad; `output` holds the losses of ten steps before."""
    import torch
    import torch.distributed as dist
    from deepspeed.runtime.zero import GatheredParameters

    from train_jobs.job import Job
    from train_jobs.loop import engine as loop
    from train_jobs.loop.guard import LossGuard
    from train_jobs.parallel.pipeline import own_parameters
    from train_jobs.parallel.stageless import Batch

    (pipeline, tensor, ranks), precision, zero, fault = case
    job = Job(
        config=PretrainConfig(
            model=ShapeConfig(layers=2, hidden=32, heads=4, context=32),
            steps=20,
            global_batch=4,
            micro_batch=2,
            optimizer=OptimizerConfig(rate=1e-3, warmup_steps=0),
            layout=Layout(pipeline=pipeline, tensor=tensor, data=ranks),
            zero=zero,
            precision=precision,
            bad_loss="skip",
            bad_loss_margin=1.0,
        ),
        train=(f"{data}/train",),
        heldout=(),
        dtype="uint16",
        vocabulary=301,
        tokenizer=f"{data}/tokenizer.json",
        output=str(output),
    )
    if dist.get_rank() == 0:
        output.mkdir()
        rows = "".join(json.dumps({"step": n, "loss": 5.7}) + "\n" for n in range(1, 11))
        (output / "metrics.jsonl").write_text(rows)
    dist.barrier()
    engine, place = loop.build_engine(job)
    samples, _ = loop_data(job)
    guard = LossGuard(job, engine, 10)
    healthy = loop.batches

    def sick(*arguments: Any) -> Iterator[Batch]:
        factor = {"loss": float("nan"), "explosion": 50.0, "gradient": 1.0}[fault]
        for tokens, (targets, shares) in healthy(*arguments):
            yield tokens, (targets, shares * factor)

    def weights() -> list[torch.Tensor]:
        held = [parameter for _, parameter in own_parameters(engine.module)]
        with GatheredParameters(held, enabled=zero == 3):
            return [parameter.detach().clone() for parameter in held]

    rows: list[Any] = []
    for step in (11, 12, 13):
        before, hooks = weights(), []
        if step == 12:
            loop.batches = sick
            if fault == "gradient":
                hooks = [held.register_hook(lambda g: g * float("nan")) for _, held in own_parameters(engine.module)]
        loss = loop.train_step(job, engine, place, samples, step - 1)
        loop.batches = healthy
        for hook in hooks:
            hook.remove()
        made = guard.check(step, loss)
        moved = any(not torch.equal(old, new) for old, new in zip(before, weights(), strict=True))
        finite = all(bool(new.isfinite().all()) for new in weights())
        norm = float(engine.get_global_grad_norm()) if made else 0.0
        rows.append({"made": made, "moved": moved, "finite": finite, "norm": norm, "updates": guard.updates(step)})
    dist.barrier()
    return {"rows": rows, "skipped": (output / "skipped.jsonl").read_text()}


def loop_data(job: Any) -> Any:
    from train_jobs.loop.batches import open_data

    return open_data(job)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    data, output = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("bad")
    tokenizer = train_bpe(iter([TEXT] * 20), 301)
    (data / "tokenizer.json").write_text(tokenizer.json_text)
    ids = np.array([*tokenizer.encode(TEXT * 60), 0], dtype="uint16")
    TokenShardWriter("uint16").write(ArtifactWriter(str(data)), "train", [ids])
    for layout in LAYOUTS:
        gloo.run(int(np.prod(layout)), _work, layout, str(data), str(output))
    return {path.stem: json.loads(path.read_text()) for path in output.glob("*.json")}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_bad_step_changes_nothing_and_is_written_down(results: dict[str, dict[str, Any]], case: Any) -> None:
    found, fault = results[name_of(case)], case[3]
    assert [row["made"] for row in found["rows"]] == [True, False, True]
    assert [row["moved"] for row in found["rows"]] == [True, False, True]
    assert all(row["finite"] and np.isfinite(row["norm"]) for row in found["rows"])
    assert [row["updates"] for row in found["rows"]] == [11, 11, 12]
    (line,) = found["skipped"].splitlines()
    row = json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert (row["step"], row["samples"]) == (12, [44, 47])
    told = "gradient" if fault == "gradient" else "loss"
    assert set(row) == {"step", "samples", told}
    assert row[told] > 100 if fault == "explosion" else row[told] == "nan"
