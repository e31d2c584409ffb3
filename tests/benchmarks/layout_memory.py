"""Peak memory of real training processes beside the plan's, for several layouts.

A process weighs itself after a model of next to nothing has trained, and at the peak of the real one's steps. The
allocator is told to give memory back at once: what it would keep for later is not what a plan can know.
"""

import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from starloom.artifact import ArtifactWriter
from starloom.tokens import TokenShardWriter
from train_jobs.config import PretrainConfig, ShapeConfig
from train_jobs.layout import Layout
from train_jobs.planning.forecast import forecast
from train_jobs.planning.hardware import HARDWARE

Kind = tuple[int, int, int, str, int, str]  # pipeline, tensor, data, recompute, zero, precision
LAYOUTS: tuple[Kind, ...] = (
    (1, 1, 1, "none", 1, "fp32"), (2, 1, 1, "none", 1, "fp32"), (1, 2, 1, "none", 1, "fp32"),
    (1, 1, 2, "none", 1, "fp32"), (1, 1, 1, "block", 1, "fp32"), (2, 2, 1, "none", 1, "fp32"),
    (1, 1, 2, "none", 0, "fp32"), (1, 1, 2, "none", 2, "fp32"), (1, 1, 2, "none", 3, "fp32"),
    (1, 1, 2, "none", 1, "bf16"), (1, 1, 2, "none", 2, "bf16"), (1, 1, 2, "none", 3, "bf16"),
)  # fmt: skip
VOCABULARY = 8192
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def config(pipeline: int, tensor: int, data: int, recompute: str, zero: int, precision: str) -> PretrainConfig:
    """26 M parameters, batch 8 × 512; in bf16, whose products a CPU makes 400 times slower, 4 × 16."""
    long = precision == "fp32"
    return PretrainConfig(
        model=ShapeConfig(layers=8, hidden=512, heads=8, context=512),
        sequence=512 if long else 16,
        steps=3,
        global_batch=8 if long else 4,
        micro_batch=2 if long else 1,
        zero=zero,
        precision=precision,
        fim={"rate": 0.0},
        layout=Layout(pipeline=pipeline, tensor=tensor, data=data),
        recompute=recompute,
    )


def compare(folder: Path, port: int) -> list[tuple[str, float, float]]:
    """(layout, measured, predicted) in bytes of the fullest rank, for every layout; `folder` has a tokenizer.json."""
    shards = folder / "memory"
    shards.mkdir()
    (shards / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    generator = np.random.default_rng(0)
    documents = [generator.integers(300, VOCABULARY, 700, dtype="uint16") for _ in range(100)]
    TokenShardWriter("uint16").write(ArtifactWriter(str(shards)), "train", documents)
    rows = []
    for number, kind in enumerate(LAYOUTS):
        pipeline, tensor, data, recompute, zero, precision = kind
        chosen = config(*kind)
        world = chosen.layout.ranks
        processes = []
        for rank in range(world):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port + number, "OMP_NUM_THREADS": 1}
            environment = {**os.environ, **GIVE_BACK, "DS_ACCELERATOR": "cpu", **{k: str(v) for k, v in place.items()}}
            command = [sys.executable, "-m", "tests.benchmarks.layout_memory", str(shards), chosen.model_dump_json()]
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        told = [process.communicate(timeout=300)[0].splitlines()[-1] for process in processes]
        measured = max(float(json.loads(line)["bytes"]) for line in told)
        predicted = forecast(chosen, chosen.shape(VOCABULARY), HARDWARE["a100-80g"], chosen.layout).memory.total
        again = f", {recompute} made again" if recompute != "none" else ""
        name = f"{pipeline}x{tensor}x{data}, zero {zero}, {precision}{again}"
        rows.append((name, measured, float(predicted)))
    return rows


def weigh(shards: str, settings: str) -> int:
    """In one rank: bytes of the process at the peak of three steps, less those after a model of next to nothing."""
    import torch
    import torch.distributed as dist

    from train_jobs.job import Job
    from train_jobs.loop.batches import open_data
    from train_jobs.loop.engine import build_engine, train_step

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    real = PretrainConfig.model_validate_json(settings)
    shape = real.model.model_copy(update={"hidden": 16})
    job = Job(real, (f"{shards}/train",), (), "uint16", VOCABULARY, f"{shards}/tokenizer.json", shards)
    small = replace(job, config=real.model_copy(update={"model": shape}))
    data, _ = open_data(job)
    before = 0
    for weighed in (small, job):
        engine, place = build_engine(weighed)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        for step in range(3):
            train_step(weighed, engine, place, data, step)
        if weighed is small:
            getattr(engine, "inner", engine).destroy()
            del engine
            gc.collect()
            before = _status("VmRSS")
    peak = _status("VmHWM") - before
    dist.barrier()
    return peak


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    found: list[Any] = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024


if __name__ == "__main__":
    print(json.dumps({"bytes": weigh(*sys.argv[1:3])}), flush=True)
    os._exit(0)
