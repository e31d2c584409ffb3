"""Training on one GPU: parity of every attention backend, MFU of the 1B shape at 2k and 8k tokens, the card's limits.

Needs this repository and the wheels torch, numpy, pydantic and safetensors; flash-attn or flash-attn-4 where they are
to be measured. Run it as

    PYTHONPATH=.:platform python -m tests.benchmarks.bench_train_gpu         # a table with the device's name
    PYTHONPATH=.:platform python -m tests.benchmarks.bench_train_gpu --dry   # the same code on a CPU at toy size

The loop is plain PyTorch around our single-device model: bf16 products, fp32 weights and AdamW, torch.compile. MFU
counts 6·N + 12·layers·width·length operations a token (full attention, as the peers' figures do) against the data
sheet's dense bf16 peak; the measured peak stands beside it.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starloom.model.attention import Backend, attend, usable_backends
from starloom.model.config import ModelConfig
from starloom.model.model import Attention, CodeModel
from train_jobs.parallel.output_loss import output_loss
from train_jobs.planning.hardware import HARDWARE

PEERS = "Megatron-Core 41 %, nanotron 44 %, llm-foundry 42 % at 2k and 38 % at 8k (their own figures, H100)"


@dataclass(frozen=True)
class Size:
    """What is measured: the 1B shape on a card, a toy on a CPU."""

    model: ModelConfig
    lengths: tuple[int, ...]
    batch_tokens: int
    steps: int
    attention_length: int
    product: int
    copy_bytes: int


FULL = Size(
    ModelConfig(layers=24, hidden=2048, heads=16, vocabulary=49152, context=8192), (2048, 8192), 16384, 12, 8192, 8192,
    4 << 30,
)  # fmt: skip
TOY = Size(ModelConfig(layers=2, hidden=64, heads=4, vocabulary=512, context=256), (64, 128), 256, 3, 128, 256, 1 << 22)


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
        f"\n{'tokens':>7} {'backend':<14} {'tokens/s':>10} {'TFLOP/s':>8} {'MFU':>6} {'of measured':>12} {'peak GB':>8}"
    )
    sheet = data_sheet(results["device"])
    for length in size.lengths:
        for backend in backends:
            row = training(size, length, backend, device, compiled=not (arguments.dry or arguments.no_compile))
            row["mfu"] = row["flops"] / sheet if sheet else None
            row["of_measured"] = row["flops"] / (results["product_tflops"] * 1e12)
            results["mfu"][f"{backend}-{length}"] = row
            mfu = f"{row['mfu']:.1%}" if row["mfu"] else "-"
            print(
                f"{length:>7} {backend:<14} {row['tokens_per_s']:>10,.0f} {row['flops'] / 1e12:>8.1f} {mfu:>6} "
                f"{row['of_measured']:>12.1%} {row['peak_bytes'] / 1e9:>8.1f}"
            )
    print(f"\npeers: {PEERS}")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({"benchmark": "train_gpu", **results}))


def training(size: Size, length: int, backend: Backend, device: torch.device, *, compiled: bool) -> dict[str, Any]:
    """Tokens per second of whole updates, the median step; peak memory from the model's making on."""
    config = size.model
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    with device:
        model = CodeModel(config)
    for held in model.parameters():
        if held.dim() > 1:
            torch.nn.init.normal_(held, std=config.init_std)
    for part in model.modules():
        if isinstance(part, Attention):
            part.backend = backend
    if compiled:
        for block in model.transformer.h:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = max(1, size.batch_tokens // length)
    ids = torch.randint(config.vocabulary, (rows, length + 1), device=device)
    shares = torch.full((rows, length), 1 / (rows * length), device=device)
    rounded = torch.autocast(device.type, dtype=torch.bfloat16) if on_gpu else nullcontext()
    times = []
    for _ in range(size.steps):
        finish(device)
        started = time.perf_counter()
        with rounded:
            states = model.transformer(ids[:, :-1])
            weight = model.transformer.wte.weight
            states, weight = (states.bfloat16(), weight.bfloat16()) if on_gpu else (states, weight)
        loss = output_loss(states, weight, ids[:, 1:], shares, first=0, real=config.vocabulary, group=None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        finish(device)
        times.append(time.perf_counter() - started)
    step = sorted(times[len(times) // 3 :])[len(times[len(times) // 3 :]) // 2]
    speed = rows * length / step
    return {
        "tokens_per_s": speed,
        "flops": speed * config.flops_per_token(length),
        "step_seconds": step,
        "batch": rows,
        "loss": float(loss.detach()),
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
    }


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
