"""What a run tells about itself: metrics.jsonl, timings, progress lines, TensorBoard, and Ray's metrics."""

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from starloom import jsonlines
from starloom.kinds import Model
from train_jobs.job import Job
from train_jobs.planning.hardware import HARDWARE

TIMINGS, TENSORBOARD = "logs/timings.jsonl", "logs/tensorboard"
# Ray exports each as ray_NAME, tagged with the run, the rank and, where there is one, the part
GAUGES: Final = {
    "starloom_train_step": "Updates done",
    "starloom_train_loss": "Loss of the global batch, nats per token",
    "starloom_train_heldout_loss": "Loss on the held-out files, nats per token",
    "starloom_train_gradient_norm": "Norm of the gradient over all axes, before clipping",
    "starloom_train_learning_rate": "Learning rate",
    "starloom_train_tokens_per_second": "Tokens per second of the whole run",
    "starloom_train_mfu": "Share of the processors' peak that the model's products reach",
    "starloom_train_seconds_left": "Seconds to the last step at the present speed",
    "starloom_train_step_seconds": "Seconds of the last step",
    "starloom_train_part_seconds": "Seconds of the last step by part: data, forward, backward, neighbours, ...",
    "starloom_train_bubble_share": "Share of the last step in which the stage waited for its neighbours",
    "starloom_train_data_wait_seconds": "Seconds of the last step in which the stage waited for data",
    "starloom_train_memory_bytes": "Peak memory of the rank: the GPU's, or the process's on a CPU",
    "starloom_train_checkpoint_seconds": "Seconds that training stood still for the last checkpoint",
}


class Records:
    """One rank's records. Rank 0 writes the files and the progress lines; every rank has its own Ray metrics.

    metrics.jsonl is the same for equal runs; everything that a clock decides is below logs/.
    """

    def __init__(self, job: Job, *, rank: int, ranks: int, step: int) -> None:
        self.job, self.rank, self.ranks = job, rank, ranks
        self.peak = peak_flops(job.config.threads_per_worker) * ranks if rank == 0 else 0.0
        self.gauges = RayGauges(run=Path(job.output).name, rank=rank)
        self.files = RunFiles(Path(job.output), step) if rank == 0 else None
        self.window: list[float] = []

    def step(self, row: Mapping[str, Any], seconds: float, parts: Mapping[str, float]) -> None:
        """Record one step: `row` holds step, learning_rate and tokens; loss and gradient_norm if it made an update."""
        config = self.job.config
        tokens = config.global_batch * config.length
        self.gauges.set("starloom_train_step_seconds", seconds)
        for part, taken in parts.items():
            self.gauges.set("starloom_train_part_seconds", taken, part=part)
        self.gauges.set("starloom_train_bubble_share", parts.get("neighbours", 0.0) / seconds)
        self.gauges.set("starloom_train_data_wait_seconds", parts.get("data", 0.0))
        self.gauges.set("starloom_train_memory_bytes", peak_memory())
        if self.files is None:
            return
        speed = tokens / seconds
        share = config.products_share * self.job.shape.flops_per_token(config.length) * speed / self.peak
        left = (config.steps - row["step"]) * seconds
        for name in ("step", "loss", "gradient_norm", "learning_rate"):
            if name in row:
                self.gauges.set(f"starloom_train_{name}", row[name])
        self.gauges.set("starloom_train_tokens_per_second", speed)
        self.gauges.set("starloom_train_mfu", share)
        self.gauges.set("starloom_train_seconds_left", left)
        self.files.metrics(row)
        self.files.timings({"step": row["step"], "at": time.time(), "seconds": seconds, "tokens_per_second": speed})
        curves = {name: row[name] for name in ("loss", "gradient_norm", "learning_rate") if name in row}
        curves |= {"tokens_per_second": speed, "mfu": share}
        curves |= {f"seconds/{part}": taken for part, taken in parts.items()}
        self.files.curves(row["step"], curves)
        self.window.append(seconds)
        if row["step"] % config.log_every == 0 or row["step"] == config.steps:
            self._progress(row)

    def heldout(self, step: int, loss: float, groups: Mapping[str, float]) -> None:
        """Record a held-out loss, and those of languages or sources by name."""
        if self.files is None:
            return
        self.gauges.set("starloom_train_heldout_loss", loss)
        for name, value in groups.items():
            self.gauges.set("starloom_train_heldout_loss", value, part=name)
        self.files.metrics({"step": step, "heldout_loss": loss, **({"heldout_groups": dict(groups)} if groups else {})})
        self.files.curves(step, {"heldout_loss": loss, **{f"heldout/{name}": value for name, value in groups.items()}})
        worst = f", from {min(groups.values()):.3f} to {max(groups.values()):.3f} by group" if groups else ""
        say(f"step {step:,}: held-out loss {loss:.3f}{worst}")

    def checkpoint(self, step: int, seconds: float) -> None:
        """Record how long training stood still for a checkpoint."""
        self.gauges.set("starloom_train_checkpoint_seconds", seconds)
        if self.files:
            self.files.timings({"step": step, "checkpoint_seconds": seconds})
            self.files.flush()  # a killed worker goes on from here

    def close(self) -> None:
        """Flush what is buffered."""
        if self.files:
            self.files.close()

    def _progress(self, row: Mapping[str, Any]) -> None:
        config = self.job.config
        tokens = config.global_batch * config.length
        speed = len(self.window) * tokens / sum(self.window)
        share = config.products_share * self.job.shape.flops_per_token(config.length) * speed / self.peak
        done = row["step"] / config.steps
        bar = "█" * round(20 * done) + "·" * (20 - round(20 * done))
        result = f"loss {row['loss']:.3f}  norm {row['gradient_norm']:.2f}" if "loss" in row else "left out"
        say(
            f"{bar} step {row['step']:>6,}/{config.steps:,}  {result}  {speed:,.0f} tokens/s  MFU {share:.0%}  "
            f"{clock((config.steps - row['step']) * tokens / speed)} left"
        )
        self.window = []


class RunFiles:
    """The files of a run's records. What an earlier attempt wrote after the step that it goes on from is dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._metrics, self._timings = folder / Model.METRICS, folder / TIMINGS
        self._timings.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if step:
            kept = [row for row in jsonlines.read_log(self._metrics) if row["step"] <= step]
        self._metrics.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1 if step else None)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Append to metrics.jsonl."""
        _append(self._metrics, row)

    def timings(self, row: Mapping[str, Any]) -> None:
        """Append to the timings."""
        _append(self._timings, row)

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Points of TensorBoard curves."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what TensorBoard buffers."""
        self._board.flush()

    def close(self) -> None:
        """Flush and end."""
        self._board.close()


class RayGauges:
    """The run's metrics in Ray; nothing outside of Ray, where nobody collects them."""

    def __init__(self, run: str, rank: int) -> None:
        import ray

        self._gauges: dict[str, Any] = {}
        if ray.is_initialized():
            from ray.util.metrics import Gauge

            for name, text in GAUGES.items():
                gauge = Gauge(name, description=text, tag_keys=("run", "rank", "part"))
                gauge.set_default_tags({"run": run, "rank": str(rank), "part": ""})
                self._gauges[name] = gauge

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set one."""
        if self._gauges:
            self._gauges[name].set(value, tags=tags)


def peak_flops(threads: int) -> float:
    """Operations per second that one process can reach: a GPU's data sheet (dense bf16), or measured on a CPU.

    An unknown GPU is measured too, in bf16.
    """
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name().lower()
        for kind, hardware in HARDWARE.items():
            if kind.split("-")[0] in name:
                return hardware.peak_tflops * 1e12
        return _product_rate(8192, torch.device("cuda"), torch.bfloat16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _product_rate(1024, torch.device("cpu"), torch.float32)
    finally:
        torch.set_num_threads(before)


def _product_rate(size: int, device: torch.device, dtype: torch.dtype) -> float:
    # values do not matter to the rate; a generator of its own leaves the run's random state alone
    generator = torch.Generator(device=device).manual_seed(0)
    a = torch.randn(size, size, generator=generator, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)


def peak_memory() -> int:
    """Bytes: the most that torch held on the GPU, or the process's largest resident size."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(line: str) -> None:
    """Print a line of progress."""
    # not print(): Ray Train's workers copy that to their logger as well, and people would read each line twice
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
