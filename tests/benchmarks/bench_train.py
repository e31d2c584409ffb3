"""Training on the CPU: our step beside transformers' model in a plain loop, data parallel scaling, checkpoint stalls.

Each run is a process group of its own with the real worker loop (`train_jobs.loop.worker.work`) on synthetic
tokens; the speed is that of its fastest step after the first three, the one least disturbed by others, for us and for
peers.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch.multiprocessing as multiprocessing

from starloom.artifact import ArtifactWriter, newest
from starloom.kinds import Evaluation
from starloom.model.config import ModelConfig
from starloom.tokens import FimConfig, TokenShardWriter
from tests.benchmarks.harness import best_seconds, cores, finish, measured_matmul, table
from tests.benchmarks.layout_memory import compare
from train_jobs.config import OptimizerConfig, PretrainConfig, ShapeConfig
from train_jobs.layout import Layout

VOCABULARY, BATCH, STEPS, WARM_STEPS, TURNS = 16384, 8, 12, 3, 2
SHAPE = ShapeConfig(layers=6, hidden=384, heads=6, context=512)
MODEL = ModelConfig(vocabulary=VOCABULARY, **SHAPE.model_dump())
OPTIMIZER = OptimizerConfig(rate=3e-4, final_rate=3e-5, warmup_steps=4)


def main() -> None:
    """Run what is asked for (all of it), print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all of them")
    chosen = parser.parse_args().sections or list(SECTIONS)
    folder = Path(tempfile.mkdtemp(prefix="bench-train-"))
    figures: dict[str, float | int | None] = {}
    try:
        prepare(folder)
        for name in chosen:
            figures |= SECTIONS[name](folder)
    finally:
        shutil.rmtree(folder)
    finish("train", figures)


def speeds(folder: Path) -> dict[str, float]:
    """Ours and theirs in turn, so that other load falls on both; one process and two; what a checkpoint costs."""
    threads = cores()
    matmul = measured_matmul()
    ours, theirs = [], []
    for turn in range(TURNS):
        ours.append(run(folder, f"one-{turn}", settings(threads=threads)))
        theirs.append(transformers_loop(folder, threads))
    single = run(folder, "single", settings(threads=1))
    double = run(folder, "double", settings(threads=1, data=2))
    stall = checkpoint_stall(folder, threads)
    report(min(ours), min(theirs), single, double, stall, matmul)
    tokens = BATCH * SHAPE.context
    return {
        "tokens_over_transformers": min(theirs) / min(ours),
        "matmul_share": tokens / min(ours) * MODEL.flops_per_token(SHAPE.context) / matmul,
        "two_process_speedup": single / double,
        "checkpoint_stall_share": stall / 60,  # at one checkpoint a minute
        "tokens_per_s": tokens / min(ours),
    }


def memory(folder: Path) -> dict[str, float]:
    """The plan's memory beside real processes'."""
    found = compare(folder, _free_port())
    sizes = [(name, measured / 1e6, predicted / 1e6, predicted / measured) for name, measured, predicted in found]
    print(table("Peak memory of the fullest rank", ("layout", "measured MB", "planned MB", "planned/measured"), sizes))
    return {"planned_memory_error": max(abs(predicted / measured - 1) for _, measured, predicted in found)}


def compiled(folder: Path) -> dict[str, float]:
    """A block as it is and compiled."""
    del folder
    eager, fused = blocks(cores())
    print(f"a block forward and backward: {eager * 1e3:.0f} ms as it is, {fused * 1e3:.0f} ms compiled\n")
    return {"compiled_over_eager": eager / fused}


def quickstart(folder: Path) -> dict[str, float]:
    """The whole recipe."""
    per_byte, gzip, xz, seconds = quickstart_figures(folder)
    print(f"quickstart, {seconds:.0f} s: {per_byte:.3f} bits per byte; gzip {gzip:.3f}, xz {xz:.3f}\n")
    return {
        "quickstart_over_gzip": per_byte / gzip,
        "quickstart_over_xz": per_byte / xz,
        "quickstart_seconds": seconds,
    }


def report(ours: float, theirs: float, single: float, double: float, stall: float, matmul: float) -> None:
    """Print the speeds."""
    threads = cores()
    tokens = BATCH * SHAPE.context
    flops = MODEL.flops_per_token(SHAPE.context)
    rows = [
        ("starloom, one process", threads, tokens / ours, tokens / ours * flops / 1e9),
        ("transformers, plain loop", threads, tokens / theirs, tokens / theirs * flops / 1e9),
        ("starloom, one process", 1, tokens / single, tokens / single * flops / 1e9),
        ("starloom, two data-parallel processes", 1, tokens / double, tokens / double * flops / 1e9),
    ]
    title = f"{MODEL.parameters / 1e6:.1f} M parameters, batch {BATCH} × {SHAPE.context}, fp32"
    print(table(title, ("run", "threads a process", "tokens/s", "GFLOP/s"), rows))
    print(f"matrix products of this machine: {matmul / 1e9:.0f} GFLOP/s")
    print(f"a checkpoint costs {stall:.2f} s of training\n")


def blocks(threads: int) -> tuple[float, float]:
    """Seconds of one block's forward and backward pass, as it is and compiled."""
    import torch

    from train_jobs.parallel.layers import ParallelBlock, TensorSlice

    torch.set_num_threads(threads)
    seconds = []
    for compiled in (False, True):
        block = ParallelBlock(MODEL, TensorSlice(0, 1, None), 0, compiled=compiled)
        for held in block.parameters():
            torch.nn.init.normal_(held, std=0.02)
        x = torch.randn(BATCH, SHAPE.context, SHAPE.hidden, requires_grad=True)
        block(x).sum().backward()  # compiles
        seconds.append(best_seconds(lambda block=block, x=x: block(x).sum().backward(), repeats=5))
    return seconds[0], seconds[1]


def quickstart_figures(folder: Path) -> tuple[float, float, float, float]:
    """Bits per byte of the quickstart's model, of gzip and of xz on the same files, and the whole recipe's seconds."""
    started = time.perf_counter()
    command = [str(Path(sys.executable).parent / "starloom"), "run", "quickstart", "--root", str(folder / "quickstart")]
    subprocess.run(command, check=True, timeout=1800, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    found = newest(str(folder / "quickstart"), Evaluation.kind)
    assert found is not None
    heldout = Evaluation(found).results()["heldout"]
    return heldout["bits_per_byte"], heldout["gzip"], heldout["xz"], seconds


def settings(*, threads: int, data: int = 1, checkpoint_every: int = 1000, steps: int = STEPS) -> PretrainConfig:
    """One run's config: the same global batch whatever the layout."""
    return PretrainConfig(
        model=SHAPE,
        steps=steps,
        global_batch=BATCH,
        micro_batch=BATCH // data,
        optimizer=OPTIMIZER,
        fim=FimConfig(rate=0.0),
        heldout_every=1000,
        checkpoint_every=checkpoint_every,
        layout=Layout(data=data),
        threads_per_worker=threads,
    )


def prepare(folder: Path) -> None:
    """A shard of random tokens and a tokenizer of the right size."""
    from data_jobs.train_tokenizer import train_bpe

    generator = np.random.default_rng(0)
    documents = [generator.integers(300, VOCABULARY, 700, dtype="uint16") for _ in range(400)]
    TokenShardWriter("uint16").write(ArtifactWriter(str(folder)), "train", documents)
    (folder / "tokenizer.json").write_text(train_bpe(iter(["def a(b): return b\n"] * 9), 280).json_text)


def run(folder: Path, name: str, config: PretrainConfig) -> float:
    """Seconds of the fastest step."""
    return min(step_seconds(folder, name, config)[WARM_STEPS:])


def step_seconds(folder: Path, name: str, config: PretrainConfig) -> list[float]:
    """Seconds of each step of a run in processes of its own."""
    output = folder / name
    output.mkdir()
    arguments = (config.layout.ranks, _free_port(), str(folder), str(output), config.model_dump_json())
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_process, args=(rank, *arguments)) for rank in range(config.layout.ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"a worker of run {name} ended with {process.exitcode}")
    return [row["seconds"] for row in timings(output) if "seconds" in row]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _process(rank: int, world: int, port: int, data: str, output: str, config: str) -> None:
    chosen = PretrainConfig.model_validate_json(config)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), DS_ACCELERATOR="cpu"
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS=str(chosen.threads_per_worker))
    import torch.distributed as dist

    from train_jobs.job import Job
    from train_jobs.loop.worker import work

    dist.init_process_group("gloo", rank=rank, world_size=world)
    job = Job(
        config=chosen,
        train=(f"{data}/train",),
        heldout=(),
        dtype="uint16",
        vocabulary=VOCABULARY,
        tokenizer=f"{data}/tokenizer.json",
        output=output,
    )
    work(job)
    os._exit(0)


def checkpoint_stall(folder: Path, threads: int) -> float:
    """Seconds that a checkpoint costs: those in which training stands still, and what slower steps lose meanwhile."""
    every = 4
    step_seconds(folder, "saving", settings(threads=threads, steps=STEPS, checkpoint_every=every))
    rows = timings(folder / "saving")
    stalls = [row["checkpoint_seconds"] for row in rows if "checkpoint_seconds" in row]
    steps = {int(row["step"]): row["seconds"] for row in rows if "seconds" in row}
    writing = [seconds for step, seconds in steps.items() if step > every and step % every == 1]
    others = [seconds for step, seconds in steps.items() if step > WARM_STEPS and step % every != 1]
    return statistics.mean(stalls) + max(0.0, statistics.mean(writing) - statistics.median(others))


def timings(output: Path) -> list[dict[str, float]]:
    """What the run wrote down about its speed."""
    return [json.loads(line) for line in (output / "logs" / "timings.jsonl").read_text().splitlines()]


def transformers_loop(folder: Path, threads: int) -> float:
    """Seconds of the fastest step of transformers' model on the same weights and tokens, with fused AdamW."""
    import torch
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    from starloom.model.model import initial_state
    from starloom.tokens import ShardGroup, TokenDataset, TokenShard

    torch.set_num_threads(threads)
    model = GPTBigCodeForCausalLM(GPTBigCodeConfig(**MODEL.to_transformers(end_of_text=0)))
    model.load_state_dict(initial_state(MODEL, 0), strict=False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=OPTIMIZER.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    data = TokenDataset([ShardGroup((TokenShard(folder / "train", "uint16"),))], context=SHAPE.context, seed=0)
    times = []
    for step in range(STEPS):
        started = time.perf_counter()
        rows = np.stack([data[step * BATCH + n].tokens for n in range(BATCH)]).astype("int64")
        batch = torch.from_numpy(rows)
        output = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(output.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return min(times[WARM_STEPS:])


SECTIONS = {made.__name__: made for made in (speeds, memory, compiled, quickstart)}

if __name__ == "__main__":
    main()
