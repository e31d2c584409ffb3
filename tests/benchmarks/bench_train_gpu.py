"""Training on one GPU: parity of every attention backend, MFU of the 1B shape at 2k and 8k tokens, the card's limits.

Needs this repository and the wheels torch, deepspeed, numpy, pyarrow, pydantic and safetensors; flash-attn or
flash-attn-4 where they are to be measured. Run it as

    PYTHONPATH=.:platform python -m tests.benchmarks.bench_train_gpu         # a table with the device's name
    PYTHONPATH=.:platform python -m tests.benchmarks.bench_train_gpu --dry   # the same code on a CPU at toy size

What is timed is the trainer's own update (`train_jobs.loop.engine.train_step`) with its engine, in bf16 with compiled
blocks. MFU counts 6·N + 12·layers·width·length operations a token (full attention, as the peers' figures do) against
the data sheet's dense bf16 peak, and causal attention, half of it, beside that; the measured peak stands there too.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from starloom.model.attention import Backend, attend, usable_backends
from starloom.model.config import ModelConfig
from starloom.tokens import ShardGroup, TokenDataset, TokenShard
from train_jobs.config import OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.job import Job
from train_jobs.loop.engine import build_engine, train_step
from train_jobs.planning.forecast import forecast
from train_jobs.planning.hardware import HARDWARE

PEERS = "Megatron-Core 41 %, nanotron 44 %, llm-foundry 42 % at 2k and 38 % at 8k (their own figures, H100)"


@dataclass(frozen=True)
class Size:
    """What is measured: the 1B shape on a card, a toy on a CPU."""

    model: ModelConfig
    lengths: tuple[int, ...]
    batch_tokens: int  # of an update
    micro_tokens: int
    steps: int
    attention_length: int
    product: int
    copy_bytes: int


FULL = Size(
    ModelConfig(layers=24, hidden=2048, heads=16, vocabulary=49152, context=8192), (2048, 8192), 65536, 16384, 12, 8192,
    8192,    4 << 30,
)  # fmt: skip
TOY = Size(
    ModelConfig(layers=2, hidden=64, heads=4, vocabulary=512, context=256), (64, 128), 512, 256, 3, 128, 256, 1 << 22
)


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="a toy on the CPU, to see that the script runs")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--output", type=Path, help="also write the JSON there")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        parser.error("no GPU here; --dry runs a toy on the CPU")
    device = torch.device("cpu" if arguments.dry else "cuda")
    size = TOY if arguments.dry else FULL
    folder = Path(tempfile.mkdtemp(prefix="bench-train-gpu-"))
    prepared(folder, size)
    results: dict[str, Any] = {"device": name_of(device), "torch": torch.__version__, "parity": {}, "mfu": {}}
    results["product_tflops"] = product_rate(size, device) / 1e12
    results["copy_gb_per_s"] = copy_rate(size, device) / 1e9
    print(f"{results['device']}, torch {torch.__version__}")
    print(f"measured: products {results['product_tflops']:.1f} TFLOP/s, copies {results['copy_gb_per_s']:.0f} GB/s\n")
    backends = usable_backends(dropout=0.0)
    print(f"attention at {size.attention_length} tokens beside fp32: largest difference, and gradients' relative error")
    for backend in backends:
        forward, backward = parity(backend, size, device)
        results["parity"][backend] = {"output": forward, "gradient": backward}
        print(f"  {backend:<14} {forward:.4f}  {backward:.4f}")
    print(
        f"\n{'tokens':>7} {'backend':<14} {'tokens/s':>10} {'TFLOP/s':>8} {'MFU':>6} {'causal':>6} {'of measured':>12} "
        f"{'peak GB':>8} {'planned':>8}"
    )
    sheet = data_sheet(results["device"])
    for length in size.lengths:
        for backend in backends:
            compiled = not (arguments.dry or arguments.no_compile)
            row = training(size, length, backend, device, compiled=compiled, folder=folder)
            row["mfu"] = row["flops"] / sheet if sheet else None
            row["causal_mfu"] = row["causal_flops"] / sheet if sheet else None
            row["of_measured"] = row["flops"] / (results["product_tflops"] * 1e12)
            results["mfu"][f"{backend}-{length}"] = row
            mfu, causal = (f"{row[key]:.1%}" if row[key] else "-" for key in ("mfu", "causal_mfu"))
            print(
                f"{length:>7} {backend:<14} {row['tokens_per_s']:>10,.0f} {row['flops'] / 1e12:>8.1f} {mfu:>6} "
                f"{causal:>6} {row['of_measured']:>12.1%} {row['peak_bytes'] / 1e9:>8.1f} "
                f"{row['planned_bytes'] / 1e9:>8.1f}"
            )
    print(f"\npeers: {PEERS}")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({"benchmark": "train_gpu", **results}))


def training(
    size: Size, length: int, backend: Backend, device: torch.device, *, compiled: bool, folder: Path
) -> dict[str, Any]:
    """Tokens per second of the trainer's own updates, the median step; peak memory of it beside the plan's."""
    on_gpu = device.type == "cuda"
    rows = size.batch_tokens // length
    config = PretrainConfig(
        model=ShapeConfig(**size.model.model_dump(exclude={"vocabulary", "norm_epsilon"})),
        sequence=length,
        steps=1000,
        global_batch=rows,
        micro_batch=max(1, min(rows, size.micro_tokens // length)),
        optimizer=OptimizerConfig(rate=1e-4, final_rate=1e-5, warmup_steps=10),
        precision="bf16" if on_gpu else "fp32",
        use_gpu=on_gpu,
        attention=backend,
        compile=compiled,
        hang_seconds=0,
    )
    job = Job(config, (), (), "uint16", size.model.vocabulary, "", str(folder))
    data = TokenDataset([ShardGroup((TokenShard(folder / "tokens", "uint16"),))], context=length, seed=0)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    engine, place = build_engine(job)
    times, losses = [], []
    for step in range(size.steps):
        finish(device)
        started = time.perf_counter()
        losses.append(train_step(job, engine, place, data, step))
        finish(device)
        times.append(time.perf_counter() - started)
    step_seconds = statistics.median(times[len(times) // 3 :])
    speed = rows * length / step_seconds
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    planned = forecast(config, size.model, HARDWARE["h100-80g"], config.layout).memory.total
    engine.destroy()
    del engine
    gc.collect()
    full = size.model.flops_per_token(length)
    return {
        "tokens_per_s": speed,
        "flops": speed * full,
        "causal_flops": speed * (full - 6 * size.model.layers * size.model.hidden * length),
        "step_seconds": step_seconds,
        "batch": rows,
        "loss": losses[-1],
        "peak_bytes": peak,
        "planned_bytes": planned,
    }


def prepared(folder: Path, size: Size) -> None:
    """A shard of random tokens, and a process group of one for the trainer."""
    ids = np.random.default_rng(0).integers(0, size.model.vocabulary, 1 << 21, dtype="<u2")
    ids.tofile(folder / "tokens.bin")
    np.array([0, len(ids)], dtype="<i8").tofile(folder / "tokens.idx")
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)


def parity(backend: Backend, size: Size, device: torch.device) -> tuple[float, float]:
    """A backend in bf16 (fp32 on a CPU) beside fp32: the outputs' largest difference, the gradients' relative one."""
    config, length = size.model, size.attention_length
    generator = torch.Generator(device).manual_seed(0)
    heads = (config.heads, 1, 1)
    exact = [
        torch.randn(1, count, length, config.head_dim, device=device, generator=generator, requires_grad=True)
        for count in heads
    ]
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    rough = [part.detach().to(kind).requires_grad_() for part in exact]
    expected = by_definition(*exact)
    got = attend(rough[0], rough[1], rough[2], 0.0, backend)
    weights = torch.randn(expected.shape, device=device, generator=generator)
    (expected * weights).sum().backward()
    (got.float() * weights).sum().backward()
    errors = []
    for one, other in zip(exact, rough, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        errors.append(float((one.grad - other.grad.float()).norm() / one.grad.norm()))
    return float((expected - got.float()).detach().abs().max()), max(errors)


def by_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention in fp32 from its formula, a head at a time so that the scores fit."""
    length = query.shape[2]
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    out = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[:, 0].transpose(1, 2) * query.shape[3] ** -0.5
        out.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ value[:, 0])
    return torch.stack(out, dim=1)


def product_rate(size: Size, device: torch.device) -> float:
    """Operations per second of a square product in bf16 (fp32 on a CPU)."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(size.product, size.product, device=device).to(kind)
    return 2 * size.product**3 / best(lambda: a @ a, device)


def copy_rate(size: Size, device: torch.device) -> float:
    """Bytes per second read and written by a copy in the device's memory."""
    source = torch.empty(size.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size.copy_bytes / best(lambda: target.copy_(source), device)


def best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of ten runs."""
    times = []
    for _ in range(10):
        finish(device)
        started = time.perf_counter()
        work()
        finish(device)
        times.append(time.perf_counter() - started)
    return min(times)


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def name_of(device: torch.device) -> str:
    """The card's or the processor's name."""
    return torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()


def data_sheet(name: str) -> float | None:
    """The card's dense bf16 peak, operations per second; None for one that is not in the table."""
    for kind, hardware in HARDWARE.items():
        if kind.split("-")[0] in name.lower():
            return hardware.peak_tflops * 1e12
    return None


if __name__ == "__main__":
    main()
